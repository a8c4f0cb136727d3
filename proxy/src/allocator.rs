//! The process's allocator: mimalloc, asked for an alignment only where a block would not have it
//! anyway. The aligned functions take a slow path for every block above a kilobyte.

#![allow(
    unsafe_code,
    reason = "an allocator can't be written otherwise; nothing else here is unsafe"
)]

use std::alloc::{GlobalAlloc, Layout};

use libmimalloc_sys as mi;

/// Alignment of mimalloc's blocks of at least this size (its `MI_MAX_ALIGN_SIZE`).
const ALIGN: usize = 16;

/// mimalloc.
#[derive(Debug)]
pub(crate) struct Allocator;

/// Smaller blocks are aligned to a word.
fn is_natural(layout: Layout) -> bool {
    layout.align() <= ALIGN && layout.align() <= layout.size()
}

// SAFETY: mimalloc's functions keep the contract of malloc, calloc, realloc and free, and each may free
// what any other allocated. Blocks have the alignment of the layout: by request, or because
// mimalloc aligns blocks of at least 16 bytes to 16, and smaller ones to their size's power of two.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: any size is allowed; the alignment is a power of two.
        unsafe {
            if is_natural(layout) {
                mi::mi_malloc(layout.size()).cast()
            } else {
                mi::mi_malloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as in `alloc`.
        unsafe {
            if is_natural(layout) {
                mi::mi_zalloc(layout.size()).cast()
            } else {
                mi::mi_zalloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller got the block from one of these functions.
        unsafe { mi::mi_free(block.cast()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller got the block from one of these functions.
        unsafe {
            if layout.align() <= ALIGN && layout.align() <= size {
                mi::mi_realloc(block.cast(), size).cast()
            } else {
                mi::mi_realloc_aligned(block.cast(), size, layout.align()).cast()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_the_alignment_that_was_asked_for() {
        for align in (0..12).map(|shift| 1 << shift) {
            for size in [
                1, 2, 3, 8, 15, 16, 17, 24, 31, 48, 100, 1000, 1025, 5000, 70_000,
            ] {
                let layout = Layout::from_size_align(size, align).unwrap();
                // SAFETY: the layout is not empty, and the block is freed by the same allocator.
                unsafe {
                    let block = Allocator.alloc(layout);
                    assert_eq!(block as usize % align, 0, "{layout:?}");
                    let grown = Allocator.realloc(block, layout, size * 3);
                    assert_eq!(grown as usize % align, 0, "grown {layout:?}");
                    let grown_layout = Layout::from_size_align(size * 3, align).unwrap();
                    Allocator.dealloc(grown, grown_layout);
                    let zeroed = Allocator.alloc_zeroed(layout);
                    assert_eq!(zeroed as usize % align, 0, "zeroed {layout:?}");
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }
}
