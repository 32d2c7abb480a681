//! The bar on stderr while a model is evaluated.

use anyhow::Result;
use etude_eval::{Progress, Stage};
use indicatif::{ProgressBar, ProgressStyle};

/// A bar that follows what `etude_eval` tells; gone when dropped.
pub(super) struct Bar {
    bar: ProgressBar,
    stage: Option<Stage>,
}

impl Bar {
    pub(super) fn new() -> Self {
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{msg:>10} {bar:32} {pos}/{len}  {eta} left")
        {
            bar.set_style(style);
        }
        Self { bar, stage: None }
    }

    pub(super) fn follow(&mut self, progress: Progress) -> Result<()> {
        if self.stage != Some(progress.stage) {
            self.stage = Some(progress.stage);
            self.bar.reset();
            self.bar.set_message(progress.stage.name());
        }
        self.bar.set_length(progress.total);
        self.bar.set_position(progress.done);
        Ok(())
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
