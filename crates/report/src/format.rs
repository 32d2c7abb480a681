//! Numbers as people read them: thousands separated, units named and kept on the same line (by
//! no-break spaces), a true minus sign.

/// `3204112` → `3,204,112`.
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if value < 0.0 && digits != "0" {
        format!("−{out}")
    } else {
        out
    }
}

/// `3204112` → `3.20 million`; below ten thousand every digit stays.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        size if size < 1e4 => count(value),
        size if size < 999_500.0 => format!("{}\u{a0}thousand", digits3(value / 1e3)),
        size if size < 999.5e6 => format!("{}\u{a0}million", digits3(value / 1e6)),
        size if size < 999.5e9 => format!("{}\u{a0}billion", digits3(value / 1e9)),
        _ => format!("{}\u{a0}trillion", digits3(value / 1e12)),
    }
}

/// Decimal bytes: `18913000` → `18.9 MB`.
pub(crate) fn bytes(value: f64) -> String {
    match value.abs() {
        size if size < 1e3 => format!("{value:.0}\u{a0}B"),
        size if size < 999_500.0 => format!("{}\u{a0}kB", digits3(value / 1e3)),
        size if size < 999.5e6 => format!("{}\u{a0}MB", digits3(value / 1e6)),
        size if size < 999.5e9 => format!("{}\u{a0}GB", digits3(value / 1e9)),
        _ => format!("{}\u{a0}TB", digits3(value / 1e12)),
    }
}

/// `252.4` → `4 min 12 s`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round();
    if seconds < 9.95 {
        return format!("{seconds:.1}\u{a0}s");
    }
    let (hours, rest) = ((whole / 3600.0).floor(), whole % 3600.0);
    let (minutes, left) = ((rest / 60.0).floor(), rest % 60.0);
    match (hours as u64, minutes as u64) {
        (0, 0) => format!("{left:.0}\u{a0}s"),
        (0, _) => format!("{minutes:.0}\u{a0}min\u{a0}{left:02.0}\u{a0}s"),
        (hours, _) if hours < 48 => format!("{hours}\u{a0}h\u{a0}{minutes:02.0}\u{a0}min"),
        (hours, _) => format!("{}\u{a0}d\u{a0}{}\u{a0}h", hours / 24, hours % 24),
    }
}

/// `0.4631` → `46.3%`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0).replace('-', "−")
}

/// How likely a difference would be by chance. The least that a thousand resamples can tell is 1/1001.
pub fn p(p: f64) -> String {
    if p < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("{p:.3}")
    }
}

/// Scores and losses: three decimals, fewer for large values.
pub(crate) fn score(value: f64) -> String {
    let text = match value.abs() {
        size if size >= 1e4 => return count(value),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 10.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    };
    text.replace('-', "−")
}

/// A score with its sign, for differences.
pub(crate) fn signed(value: f64) -> String {
    if value > 0.0 {
        format!("+{}", score(value))
    } else {
        score(value)
    }
}

/// A small setting such as a learning rate: `0.0003`, `2.5e-6`.
pub(crate) fn rate(value: f64) -> String {
    if value != 0.0 && value.abs() < 1e-4 {
        format!("{value:.1e}")
    } else {
        digits(value, 3)
    }
    .replace('-', "−")
}

/// A label of an axis whose ticks lie `gap` apart.
pub(crate) fn tick(value: f64, gap: f64) -> String {
    let size = value.abs();
    if size < gap * 1e-6 {
        return "0".into();
    }
    if size >= 1e6 && gap >= 1e4 {
        return format!("{}M", trim(format!("{:.2}", value / 1e6)));
    }
    if size >= 1e4 && gap >= 100.0 {
        return format!("{}k", trim(format!("{:.1}", value / 1e3)));
    }
    if gap < 1e-4 {
        return trim_exponent(&format!("{value:.1e}"));
    }
    let decimals = (-gap.log10().floor()).max(0.0) as usize;
    // A gap of 0.25 needs two decimals where its size alone suggests one.
    let decimals = (decimals..=decimals + 1)
        .find(|places| (gap * 10f64.powi(*places as i32)).fract().abs() < 1e-6)
        .unwrap_or(decimals);
    if decimals == 0 {
        count(value)
    } else {
        format!("{value:.decimals$}").replace('-', "−")
    }
}

/// "1 step", "2 steps", "1,200 steps".
pub(crate) fn plural(value: f64, one: &str, many: &str) -> String {
    format!("{} {}", count(value), if value == 1.0 { one } else { many })
}

/// Untrusted text for the page: control characters made visible, cut after `limit` characters.
/// Returns the text and how many characters were left off.
pub(crate) fn clip(text: &str, limit: usize) -> (String, usize) {
    let visible = |c: char| {
        if c.is_control() && c != '\n' && c != '\t' {
            '\u{FFFD}'
        } else {
            c
        }
    };
    let total = text.chars().count();
    // Cutting a few last characters off would hide less than the remark about it takes.
    let kept = if total <= limit + limit / 5 {
        total
    } else {
        limit
    };
    (text.chars().take(kept).map(visible).collect(), total - kept)
}

fn digits3(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.places$}").replace('-', "−")
}

/// At most `places` significant digits, without trailing zeros.
fn digits(value: f64, places: i32) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let decimals = (places - 1 - value.abs().log10().floor() as i32).max(0) as usize;
    let text = format!("{value:.decimals$}");
    if decimals > 0 { trim(text) } else { text }
}

fn trim(text: String) -> String {
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}

fn trim_exponent(text: &str) -> String {
    text.replace(".0e", "e").replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(3_204_112.0), "3,204,112");
        assert_eq!(count(999.0), "999");
        assert_eq!(count(-1000.0), "−1,000");
        assert_eq!(short(9_999.0), "9,999");
        assert_eq!(short(3_204_112.0), "3.20\u{a0}million");
        assert_eq!(short(999_999.0), "1.00\u{a0}million");
        assert_eq!(bytes(18_913_000.0), "18.9\u{a0}MB");
        assert_eq!(bytes(512.0), "512\u{a0}B");
        assert_eq!(duration(252.4), "4\u{a0}min\u{a0}12\u{a0}s");
        assert_eq!(duration(0.84), "0.8\u{a0}s");
        assert_eq!(duration(3_780.0), "1\u{a0}h\u{a0}03\u{a0}min");
        assert_eq!(duration(59.6), "1\u{a0}min\u{a0}00\u{a0}s");
        assert_eq!(percent(0.4631), "46.3%");
        assert_eq!(score(-0.0831), "−0.083");
        assert_eq!(signed(0.0831), "+0.083");
        assert_eq!(rate(0.0003), "0.0003");
        assert_eq!(rate(0.02), "0.02");
        assert_eq!(rate(2.5e-6), "2.5e−6");
    }

    #[test]
    fn ticks_carry_the_decimals_their_gap_needs() {
        assert_eq!(tick(2.5, 0.5), "2.5");
        assert_eq!(tick(0.25, 0.25), "0.25");
        assert_eq!(tick(1000.0, 500.0), "1,000");
        assert_eq!(tick(20_000.0, 5_000.0), "20k");
        assert_eq!(tick(12_500.0, 2_500.0), "12.5k");
        assert_eq!(tick(0.0, 0.5), "0");
        assert_eq!(tick(2e-5, 1e-5), "2e−5");
        assert_eq!(tick(1.5e6, 5e5), "1.5M");
    }

    #[test]
    fn clipping_counts_and_shows_controls() {
        assert_eq!(clip("abc\u{0}d\n", 10), ("abc\u{FFFD}d\n".into(), 0));
        assert_eq!(clip(&"é".repeat(50), 10), ("é".repeat(10), 40));
        assert_eq!(clip(&"é".repeat(12), 10).1, 0);
    }
}
