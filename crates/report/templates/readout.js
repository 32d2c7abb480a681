// Shows the values under the pointer. The page is whole without it.
"use strict";
for (const svg of document.querySelectorAll("svg[data-readout]")) {
  const scale = JSON.parse(svg.dataset.readout);
  const [x0, x1, left, right] = scale.x;
  const [y0, y1, bottom, top] = scale.y;
  const width = svg.viewBox.baseVal.width;
  const height = svg.viewBox.baseVal.height;
  const curves = scale.curves.map(([ink, name]) => ({ ink, name, points: [] }));
  // The curves come in the order of the list, each in one or more pieces of its own class.
  const pieces = [...svg.querySelectorAll("polyline, circle")];
  for (const [index, curve] of curves.entries()) {
    const raw = curves.slice(index + 1).some((other) => other.ink === curve.ink);
    for (const piece of pieces) {
      if (piece.tagName === "circle") {
        if (piece.classList.contains("f" + curve.ink)) curve.points.push([+piece.getAttribute("cx"), +piece.getAttribute("cy")]);
      } else if (!piece.classList.contains("bar") && piece.classList.contains("s" + curve.ink) && piece.classList.contains("raw") === raw) {
        for (const pair of piece.getAttribute("points").split(" ")) curve.points.push(pair.split(",").map(Number));
      }
    }
  }
  const value = (y) => {
    const share = (y - bottom) / (top - bottom);
    return scale.log ? y0 * (y1 / y0) ** share : y0 + share * (y1 - y0);
  };
  const shown = (number) => {
    const scaled = scale.percent ? number * 100 : number;
    const size = Math.abs(scaled);
    const text = size >= 1000 ? Math.round(scaled).toLocaleString("en") : scaled.toPrecision(3);
    return scale.percent ? text + "%" : text;
  };
  const step = (x) => {
    const way = (x - left) / (right - left);
    return scale.share ? (100 * x0 * (x1 / x0) ** way).toPrecision(2) / 1 + "% of the examples" : "step " + Math.round(x0 + way * (x1 - x0)).toLocaleString("en");
  };
  const layer = document.createElement("div");
  const rule = document.createElement("i");
  const box = document.createElement("p");
  layer.className = "read";
  layer.setAttribute("aria-hidden", "true");
  layer.append(rule, box);
  svg.parentElement.append(layer);
  const leave = () => layer.classList.remove("on");
  layer.addEventListener("pointerleave", leave);
  layer.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const unit = frame.width / width;
    const x = (event.clientX - frame.left) / unit;
    if (x < left - 100 || x > right + 100) return leave();
    box.replaceChildren();
    let at = null;
    for (const curve of curves) {
      const nearest = curve.points.reduce((best, point) => (best && Math.abs(best[0] - x) <= Math.abs(point[0] - x) ? best : point), null);
      if (!nearest) continue;
      at = at ?? nearest[0];
      const line = document.createElement("span");
      const key = document.createElement("span");
      key.className = "key k-dot i-" + curve.ink;
      key.style.display = "inline-block";
      // A curve measured more rarely has its nearest value elsewhere; the box then says where.
      const far = Math.abs(nearest[0] - at) > (right - left) / 100;
      line.append(key, curve.name + ": " + shown(value(nearest[1])) + (far ? " at " + step(nearest[0]) : ""));
      box.append(line);
    }
    if (at === null) return leave();
    const head = document.createElement("b");
    head.textContent = step(at);
    box.prepend(head);
    layer.classList.add("on");
    rule.style.left = at * unit + "px";
    rule.style.top = top * unit + "px";
    rule.style.height = (bottom - top) * unit + "px";
    const room = at * unit > frame.width / 2;
    box.style.left = room ? "auto" : at * unit + 10 + "px";
    box.style.right = room ? frame.width - at * unit + 10 + "px" : "auto";
  });
}
