//! What the engine takes from the allocator, beside what it reads and writes.

use regard_memory::{CountingAllocator, Taken};

/// All memory that this program has.
#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator::new();

/// What was taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Bytes, with the plan and the first call.
    pub(crate) scratch: u64,
    /// Allocations of all later calls.
    pub(crate) allocations: u64,
}

/// Counts it.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    memory: Memory,
    /// Whether the first call is over.
    warm: bool,
}

impl Meter {
    /// Does some of a call's work, or of the preparations.
    pub(crate) fn count<R>(&mut self, work: impl FnOnce() -> R) -> R {
        let before = ALLOCATOR.taken();
        let result = work();
        let Taken { allocations, bytes } = ALLOCATOR.taken().since(before);
        if self.warm {
            self.memory.allocations += allocations;
        } else {
            self.memory.scratch += bytes;
        }
        result
    }

    /// A call is over.
    pub(crate) fn end_call(&mut self) {
        self.warm = true;
    }

    pub(crate) fn memory(&self) -> Memory {
        self.memory
    }
}
