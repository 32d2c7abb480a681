//! Documents: one unit of text with its key and where it was read, and the iterators that a data set
//! hands out. A reader thread runs ahead of whoever consumes them.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

use crate::error::DataError;
use crate::task::{SourceRef, TaskExample};

/// One document: a speech, a play, an article. Nothing ever learns across its ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What its split is decided by.
    pub key: String,
    /// Its text.
    pub text: String,
    /// Where it was read.
    pub source: SourceRef,
}

/// Documents in the order of the files; ends after the first error.
pub type Documents = Items<Document>;

/// Task examples in the order of the files; ends after the first error.
pub type Examples = Items<TaskExample>;

/// Items that a reader thread sends; dropping this ends the thread.
pub struct Items<T> {
    items: Receiver<Result<T, DataError>>,
    reader: Option<JoinHandle<()>>,
}

/// How far the reader may run ahead.
const AHEAD: usize = 64;

impl<T: Send + 'static> Items<T> {
    /// Starts `read` on a thread. It gets a sink that answers false once nobody listens any more.
    pub(crate) fn start<F>(read: F) -> Self
    where
        F: FnOnce(&mut dyn FnMut(T) -> bool) -> Result<(), DataError> + Send + 'static,
    {
        let (sender, items) = sync_channel(AHEAD);
        let reader = std::thread::spawn(move || {
            let outcome = read(&mut |item| sender.send(Ok(item)).is_ok());
            if let Err(error) = outcome {
                // Nobody listening means nobody to tell.
                let _ = sender.send(Err(error));
            }
        });
        Self {
            items,
            reader: Some(reader),
        }
    }
}

impl<T> Iterator for Items<T> {
    type Item = Result<T, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.items.recv() {
            Ok(item) => Some(item),
            Err(_) => {
                // A reader that panicked must not look like one that reached the end.
                if let Some(Err(panic)) = self.reader.take().map(JoinHandle::join) {
                    std::panic::resume_unwind(panic);
                }
                None
            }
        }
    }
}
