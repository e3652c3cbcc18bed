// husk: the state machines of a qcow2 image, shared by its source files
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "block/qcow2.h"

namespace husk::block::qcow2 {

/// A request on its way: a walk through its range in runs, each of which becomes pieces that run side by side.
struct Image::Job {
  Image& image;
  core::BlockRequest request;
  std::uint64_t position = 0;  ///< guest; how far the walk has come
  std::uint64_t end = 0;
  unsigned pending = 0;  ///< pieces and growths under way
  int error = 0;
  bool walking = false;   ///< advance() is on the stack
  bool waiting = false;   ///< for a table, a growth or a commit; what it waits for calls advance()
  bool internal = false;  ///< a read that a growth of ours makes; it is not counted as a request
  bool committed = false;
  bool allocate_only = false;  ///< a write without data
  // Where in the spans `position` is.
  std::size_t span = 0;
  std::size_t span_offset = 0;
};

/// Keeps a job from completing while a callback works on it, and lets it go on at the end.
struct Image::Hold {
  explicit Hold(Job& held) : job(held) { ++job.pending; }
  ~Hold() {
    --job.pending;
    job.image.advance(job);
  }
  Hold(const Hold&) = delete;
  Hold& operator=(const Hold&) = delete;
  Job& job;
};

/// One transfer of a job.
struct Image::Piece {
  Job* job = nullptr;
  std::uint64_t host = 0, length = 0;
  bool listed = false;
  std::list<Piece*>::iterator place;
  std::vector<core::BlockSpan> spans;
  bool in_use = false;
};

/// A run of clusters that a write gives space.
struct Image::Growth {
  Image& image;
  Job& job;
  Slice* slice = nullptr;   // pinned
  std::uint64_t start = 0;  // guest; first cluster
  std::uint64_t clusters = 0;
  std::uint64_t data = 0;  // guest; what the request writes here
  std::uint64_t data_end = 0;
  std::uint64_t copy = 0;  // guest; with what is copied around it
  std::uint64_t copy_end = 0;
  std::uint64_t host = 0;  // of `start`
  bool in_place = false;   // the host clusters are there already
  bool virgin = false;     // the host clusters read as zeroes
  bool head_zero = false, tail_zero = false;
  bool counted = false;  // host clusters were allocated for it
  std::vector<core::BlockSpan> spans{};
  std::vector<std::uint8_t> head{}, tail{};
  core::BlockSpan edge{};  // what is being read
  std::vector<std::uint8_t> compressed{};
  std::uint64_t compressed_host = 0;
  std::vector<Job*> waiting{};
  std::list<Growth*>::iterator place{};
};

/// A search for free clusters, with the allocator locked.
struct Image::Scan {
  std::uint64_t wanted = 0;
  std::uint64_t first = 0;  // cluster number
  std::uint64_t got = 0;
  Allocated done;
  std::vector<std::uint8_t> buffer;
  core::BlockSpan span;
  std::uint64_t new_table = 0, new_table_clusters = 0, after = 0;
  std::vector<std::uint64_t> new_entries;
};

struct Image::Freeing {
  std::vector<std::pair<std::uint64_t, std::uint64_t>> ranges;  // offset, length; cluster aligned
  std::size_t next = 0;
  Continue done;
};

struct Image::CommitRun {
  enum class Stage : std::uint8_t {
    mark_dirty,
    refcounts,
    flush_refcounts,
    refcount_table,
    flush_before,
    tables,
    flush_after,
    frees,
    ended
  } stage = Stage::mark_dirty;
  std::vector<core::BlockCompletion> done;
  struct Save {
    TableCache* cache;
    Slice* slice;  // null: not of a cache
    std::uint64_t offset;
    std::vector<std::uint8_t> content;
    core::BlockSpan span;
  };
  std::vector<Save> refcounts, refcount_table, tables;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> frees;
  std::vector<std::uint8_t> word;
  core::BlockSpan word_span;
  unsigned pending = 0;
  int error = 0;
};

/// Appends to `to` what lies between the spans' bytes [skip, skip+length), counted from span `first`, `offset` in it.
void cut_spans(std::span<const core::BlockSpan> spans, std::size_t first, std::size_t offset, std::uint64_t length,
               std::vector<core::BlockSpan>& to);
void fill_zero(std::span<const core::BlockSpan> spans);

/// Raw deflate (window of 4 KiB, as QEMU) or zstd; `out` gets exactly out.size() bytes.
bool decompress(Compression method, std::span<const std::uint8_t> in, std::span<std::uint8_t> out);
/// Empty if it does not get shorter than `most` bytes.
std::vector<std::uint8_t> compress(Compression method, std::span<const std::uint8_t> in, std::size_t most);

}  // namespace husk::block::qcow2
