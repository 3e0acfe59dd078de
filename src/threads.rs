//! Threads for work that has to be done in any case: where the system makes no more of them, fewer do it. (It does not
//! past a limit of the user's or of the control group.)

use std::io;
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::thread::{self, Builder, Scope, ScopedJoinHandle};

/// Does `work` for all of `items` at once, and gives what it gives, in order.
pub(crate) fn for_each<I: Sync, T: Send>(items: &[I], work: impl Fn(&I) -> T + Sync) -> Vec<T> {
    if let [only] = items {
        return vec![work(only)];
    }
    let work = &work;
    thread::scope(|scope| {
        let begun = items
            .iter()
            .map(|item| begin(scope, move || work(item)).ok());
        let begun: Vec<_> = begun.collect();
        // Before any of the others is waited for.
        let here = begun.iter().zip(items);
        let here: Vec<_> = here
            .map(|(thread, item)| thread.is_none().then(|| work(item)))
            .collect();
        let ends = begun.into_iter().zip(here).map(|ends| match ends {
            // A panic has ended the process.
            (Some(thread), _) => thread.join().ok(),
            (None, done) => done,
        });
        ends.flatten().collect()
    })
}

/// Begins `work` on a thread more. With an error it is dropped, for others to go on without.
pub(crate) fn begin<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, T>> {
    Builder::new().spawn_scoped(scope, work).inspect_err(tell)
}

/// Has `work` done on a thread called `name`, for which nobody waits; or else here.
pub(crate) fn detach(name: &str, work: impl FnOnce() + Send + 'static) {
    let work = Arc::new(Mutex::new(Some(work)));
    let shared = Arc::clone(&work);
    let begun = Builder::new().name(name.to_owned()).spawn(move || {
        if let Some(work) = take(&shared) {
            work();
        }
    });
    if let Err(e) = begun {
        tell(&e);
        if let Some(work) = take(&work) {
            work();
        }
    }
}

fn take<T>(slot: &Mutex<Option<T>>) -> Option<T> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}

fn tell(error: &io::Error) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        log::warn!("{error}: the system makes no more threads, so fewer do the work");
    });
}
