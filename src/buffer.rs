//! Page-aligned memory, as direct I/O wants it, and one scratch buffer a thread.

use std::cell::RefCell;

/// Alignment of the memory, in bytes: enough for direct I/O on every device.
pub(crate) const ALIGNMENT: usize = 4096;

/// Bytes at an aligned address. Grows on demand, never shrinks; pages that were never touched cost nothing.
#[derive(Debug, Default)]
pub(crate) struct AlignedBuffer {
    bytes: Vec<u8>,
    start: usize,
}

impl AlignedBuffer {
    /// An empty buffer; memory comes with the first [`AlignedBuffer::get`].
    #[must_use]
    pub(crate) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            start: 0,
        }
    }

    /// The first `len` bytes. What they hold is whatever was there last.
    pub(crate) fn get(&mut self, len: usize) -> &mut [u8] {
        if self.bytes.len() < self.start + len {
            self.bytes = vec![0; len.next_multiple_of(ALIGNMENT) + ALIGNMENT];
            self.start = self.bytes.as_ptr().align_offset(ALIGNMENT);
        }
        &mut self.bytes[self.start..self.start + len]
    }
}

thread_local! {
    static SCRATCH: RefCell<AlignedBuffer> = const { RefCell::new(AlignedBuffer::new()) };
}

/// Lends this thread's buffer, `len` bytes of it. Nested calls get a buffer of their own.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [u8]) -> R) -> R {
    SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
        Ok(mut buffer) => work(buffer.get(len)),
        Err(_) => work(AlignedBuffer::new().get(len)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slice_is_aligned_and_as_long_as_asked() {
        let mut buffer = AlignedBuffer::new();
        for len in [1, 4096, 4097, 1 << 20, 5] {
            let slice = buffer.get(len);
            assert_eq!(slice.len(), len);
            assert_eq!(slice.as_ptr().align_offset(ALIGNMENT), 0);
        }
    }

    #[test]
    fn nested_scratch_buffers_are_different_memory() {
        with_scratch(8, |outer| {
            outer.fill(1);
            with_scratch(8, |inner| inner.fill(2));
            assert_eq!(outer, [1; 8]);
        });
    }
}
