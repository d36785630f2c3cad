#pragma once

#include <cstddef>

namespace stableops {

// Scratch of the calling thread: aligned to 64 bytes, grown when needed, kept for the next call,
// freed when the thread ends. Contents are undefined. Throws std::bad_alloc.
//
// Valid until the next call on the same thread. A region's caller runs tasks itself, so scratch
// taken before parallel_for() is lost if the tasks take theirs: what tasks share comes from
// acquire_block() or is passed in.
void* thread_scratch(std::size_t bytes);

// Memory for large results, contents undefined: aligned to 4 KB, and from 4 MB on to 2 MB with huge
// pages advised. A released block is kept and handed out again for requests of half its size or
// more, because fresh pages cost more than most operations on them, and the layers of a network
// then share two or three blocks.
//
// All functions may be called from any thread, at any time (interpreter shutdown included) and
// after a fork. Throws std::bad_alloc, and what cache_limit() throws.
void* acquire_block(std::size_t bytes);

// `block` is nullptr or comes from acquire_block().
void release_block(void* block) noexcept;

// Gives all idle blocks back to the system.
void empty_cache() noexcept;

// Bytes held in idle blocks, at most cache_limit() at any time. Blocks that are handed out do not
// count.
std::size_t cache_bytes_in_use();

// STABLEOPS_CACHE_BYTES, or 256 MB; 0 switches the cache off. std::invalid_argument if it is
// malformed, on each call until it is corrected.
std::size_t cache_limit();

}  // namespace stableops
