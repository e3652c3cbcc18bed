// husk: qcow2 images: finding, counting and freeing clusters
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_private.h"

namespace husk::block::qcow2 {
namespace {
constexpr std::uint64_t kMostHostOffset = std::uint64_t{1} << 56;  // what an L2 entry can hold
}

void Image::lock_allocator(std::move_only_function<void()> run) {
  allocator_queue_.push_back(std::move(run));
  serve_allocator();
}

void Image::unlock_allocator() {
  HUSK_CHECK(allocator_locked_);
  allocator_locked_ = false;
  serve_allocator();
}

/// One after the other in a loop, not one from within the other: there may be many.
void Image::serve_allocator() {
  if (allocator_serving_) return;
  allocator_serving_ = true;
  while (!allocator_locked_ && !allocator_queue_.empty()) {
    allocator_locked_ = true;
    auto next = std::move(allocator_queue_.front());
    allocator_queue_.pop_front();
    next();
  }
  allocator_serving_ = false;
}

void Image::allocate(std::uint64_t clusters, Allocated done) {
  HUSK_CHECK(clusters > 0);
  auto shared = std::make_unique<Scan>();
  shared->wanted = clusters;
  shared->done = std::move(done);
  lock_allocator([this, search = std::move(shared)]() mutable {
    search->first = next_cluster_;
    scan(*search.release());
  });
}

void Image::end_scan(Scan& scan, int error) {
  Allocated done = std::move(scan.done);
  const std::uint64_t host = scan.first << cluster_bits_, got = scan.got;
  if (error == 0) next_cluster_ = scan.first + scan.got;
  delete &scan;
  unlock_allocator();
  done(error, host, got);
}

void Image::scan(Scan& s) {
  const std::uint64_t entries = meta_.header.refcount_block_entries();
  const unsigned order = meta_.header.refcount_order;
  const std::size_t slice_bytes = refcount_cache_->slice_bytes();
  while (s.got < s.wanted) {
    const std::uint64_t cluster = s.first + s.got;
    if (cluster >= kMostHostOffset >> cluster_bits_) return end_scan(s, s.got > 0 ? 0 : EFBIG);
    const std::uint64_t block = cluster / entries;
    if (block >= meta_.refcount_table.size()) {
      if (s.got > 0) return end_scan(s, 0);
      return grow_refcount_table(s, cluster);
    }
    const std::uint64_t place = meta_.refcount_table[block] & kRefcountOffsetMask;
    if (place == 0) {
      if (s.got > 0) return end_scan(s, 0);
      return add_refcount_block(s, block, cluster);
    }
    if (place & (cluster_ - 1)) {
      mark_corrupt(fmt::format("refcount block {} is at {:#x}, not at a cluster", block, place));
      return end_scan(s, EIO);
    }
    const std::uint64_t within = ((cluster % entries) << order) / 8;
    const std::uint64_t at = place + align_down<std::uint64_t>(within, slice_bytes);
    Slice* slice = refcount_cache_->find(at);
    if (slice == nullptr) {
      refcount_cache_->get(at, [this, &s](int error, Slice* loaded) {
        if (error != 0) return end_scan(s, error);
        refcount_cache_->unpin(*loaded);
        scan(s);
      });
      return;
    }
    const std::uint64_t per_slice = (slice_bytes * 8) >> order;
    const std::uint64_t index = (cluster % entries) % per_slice;
    if (get_refcount(slice->data.get(), index, order) != 0) {
      if (s.got > 0) break;
      ++s.first;
      continue;
    }
    if (overlaps_metadata(cluster << cluster_bits_)) {
      mark_corrupt(fmt::format("the cluster at {:#x} counts as free, but is one of the image's tables",
                               cluster << cluster_bits_));
      return end_scan(s, EIO);
    }
    set_refcount(slice->data.get(), index, order, 1);
    refcount_cache_->mark_dirty(*slice);
    ++s.got;
  }
  end_scan(s, 0);
}

/// All the range of a missing refcount block is free; the block takes the first cluster wanted and counts itself.
void Image::add_refcount_block(Scan& s, std::uint64_t block, std::uint64_t cluster) {
  const std::uint64_t host = cluster << cluster_bits_;
  if (overlaps_metadata(host)) {
    mark_corrupt(fmt::format("no refcounts for the image's own table at {:#x}", host));
    return end_scan(s, EIO);
  }
  s.buffer.assign(cluster_, 0);
  set_refcount(s.buffer.data(), cluster % meta_.header.refcount_block_entries(), meta_.header.refcount_order, 1);
  s.span = s.buffer;
  if (host >= virgin_) virgin_ = host + cluster_;
  refcount_cache_->forget(host, cluster_);
  file_->submit({.op = core::BlockOp::write,
                 .flags = 0,
                 .offset = host,
                 .length = cluster_,
                 .spans = {&s.span, 1},
                 .completion = [this, &s, block, host](int error) {
                   if (error != 0) return end_scan(s, error);
                   meta_.refcount_table[block] = host;
                   refcount_table_dirty_[block / 64] = true;
                   any_refcount_table_dirty_ = true;
                   s.first = (host >> cluster_bits_) + 1;
                   scan(s);
                 }});
}

/// A larger table, with the refcount blocks that count it, in one piece at `cluster`, the first that the old one cannot
/// count. The header changes over to it when all of it is stable.
void Image::grow_refcount_table(Scan& s, std::uint64_t cluster) {
  const std::uint64_t entries = meta_.header.refcount_block_entries();
  const std::uint64_t old_size = meta_.refcount_table.size();
  std::uint64_t blocks = 1, table = 0;
  while (true) {
    const std::uint64_t last = cluster + blocks + table;
    const std::uint64_t wanted = std::max(old_size * 2, last / entries + 1);
    const std::uint64_t new_table = align_up<std::uint64_t>(wanted * 8, cluster_) >> cluster_bits_;
    const std::uint64_t new_blocks = (cluster + blocks + new_table - 1) / entries - cluster / entries + 1;
    if (new_table == table && new_blocks == blocks) break;
    table = std::max(table, new_table);
    blocks = std::max(blocks, new_blocks);
  }
  if (table * cluster_ > std::max(kMostRefcountTableBytes, cluster_)) return end_scan(s, EFBIG);
  s.buffer.assign((blocks + table) * cluster_, 0);
  s.new_entries = meta_.refcount_table;
  s.new_entries.resize(table * cluster_ / 8);
  for (std::uint64_t n = 0; n < blocks; ++n) s.new_entries[cluster / entries + n] = (cluster + n) << cluster_bits_;
  for (std::uint64_t n = 0; n < blocks + table; ++n) {
    const std::uint64_t counted = cluster + n;
    const std::uint64_t block = counted / entries - cluster / entries;
    set_refcount(s.buffer.data() + block * cluster_, counted % entries, meta_.header.refcount_order, 1);
  }
  for (std::size_t i = 0; i < s.new_entries.size(); ++i)
    store_be(s.buffer.data() + blocks * cluster_ + i * 8, s.new_entries[i]);
  s.span = s.buffer;
  s.new_table = (cluster + blocks) << cluster_bits_;
  s.new_table_clusters = table;
  s.after = cluster + blocks + table;
  const std::uint64_t host = cluster << cluster_bits_;
  virgin_ = std::max(virgin_, s.after << cluster_bits_);
  const auto flush = [this](Continue next) {
    file_->submit(
        {.op = core::BlockOp::flush, .flags = 0, .offset = 0, .length = 0, .spans = {}, .completion = std::move(next)});
  };
  const auto switched = [this, &s](int error) {
    if (error != 0) return end_scan(s, error);
    free_later(meta_.header.refcount_table_offset, std::uint64_t{meta_.header.refcount_table_clusters} * cluster_);
    meta_.header.refcount_table_offset = s.new_table;
    meta_.header.refcount_table_clusters = static_cast<std::uint32_t>(s.new_table_clusters);
    // A commit may have marked further blocks in the old table meanwhile: none can, while the allocator is locked.
    meta_.refcount_table = std::move(s.new_entries);
    refcount_table_dirty_.assign((meta_.refcount_table.size() + 63) / 64, false);
    any_refcount_table_dirty_ = false;
    s.first = s.after;
    scan(s);
  };
  const auto header_written = [flush, switched](int error) {
    if (error != 0)
      switched(error);
    else
      flush(switched);
  };
  const auto stable = [this, &s, header_written](int error) {
    if (error != 0) return end_scan(s, error);
    s.buffer.assign(12, 0);
    store_be(&s.buffer[0], s.new_table);
    store_be(&s.buffer[8], static_cast<std::uint32_t>(s.new_table_clusters));
    s.span = s.buffer;
    file_->submit({.op = core::BlockOp::write,
                   .flags = 0,
                   .offset = 48,
                   .length = 12,
                   .spans = {&s.span, 1},
                   .completion = header_written});
  };
  file_->submit({.op = core::BlockOp::write,
                 .flags = 0,
                 .offset = host,
                 .length = s.buffer.size(),
                 .spans = {&s.span, 1},
                 .completion = [flush, stable, this, &s](int error) {
                   if (error != 0) return end_scan(s, error);
                   flush(stable);
                 }});
}

/// For compressed clusters: bytes anywhere, packed into host clusters that count each of their users.
void Image::allocate_bytes(std::uint64_t bytes, Allocated done) {
  // What is left of the last host cluster is counted once more; what does not fit goes into the next one, if that is
  // the neighbour.
  const std::uint64_t at = compressed_end_;
  const std::uint64_t room = at == 0 ? 0 : align_up(at, cluster_) - at;
  compressed_end_ = 0;
  struct Request {
    std::uint64_t bytes, at, room;
    Allocated done;
  };
  auto* request = new Request{bytes, at, room, std::move(done)};
  const auto share = [this, request](auto&& shared, auto&& refused) {
    // One more user of the cluster that `at` is in.
    lock_allocator([this, request, shared, refused]() mutable {
      const std::uint64_t cluster = (request->at - 1) >> cluster_bits_;
      const std::uint64_t entries = meta_.header.refcount_block_entries();
      const unsigned order = meta_.header.refcount_order;
      const std::uint64_t place = meta_.refcount_table[cluster / entries] & kRefcountOffsetMask;
      const std::uint64_t within = ((cluster % entries) << order) / 8;
      const std::size_t slice_bytes = refcount_cache_->slice_bytes();
      refcount_cache_->get(
          place + align_down<std::uint64_t>(within, slice_bytes),
          [this, order, entries, cluster, slice_bytes, shared, refused](int error, Slice* slice) mutable {
            bool good = error == 0;
            if (good) {
              const std::uint64_t index = (cluster % entries) % ((slice_bytes * 8) >> order);
              const std::uint64_t count = get_refcount(slice->data.get(), index, order);
              good = count > 0 && count < meta_.header.most_refcount();
              if (good) {
                set_refcount(slice->data.get(), index, order, count + 1);
                refcount_cache_->mark_dirty(*slice);
              }
              refcount_cache_->unpin(*slice);
            }
            unlock_allocator();
            if (good)
              shared();
            else
              refused();
          });
    });
  };
  const auto finish = [this, request](int error, std::uint64_t host) {
    std::unique_ptr<Request> owned(request);
    if (error == 0) {
      const std::uint64_t end = host + owned->bytes;
      compressed_end_ = end % cluster_ != 0 ? end : 0;
    }
    owned->done(error, host, 1);
  };
  const auto fresh = [this, finish] {
    allocate(1, [finish](int error, std::uint64_t host, std::uint64_t) { finish(error, host); });
  };
  if (room == 0) return fresh();
  if (bytes <= room) return share([finish, at] { finish(0, at); }, fresh);
  allocate(1, [this, share, finish, at](int error, std::uint64_t host, std::uint64_t) {
    if (error != 0) return finish(error, 0);
    if (host != align_up(at, cluster_)) return finish(0, host);
    share([finish, at] { finish(0, at); }, [finish, host] { finish(0, host); });
  });
}

void Image::free_later(std::uint64_t offset, std::uint64_t length) {
  // A decompressed copy must not outlive its place: another cluster may get the same entry.
  decompressed_entry_ = 0;
  if (!frees_.empty() && frees_.back().first + frees_.back().second == offset)
    frees_.back().second += length;
  else
    frees_.emplace_back(offset, length);
}

/// Takes one from the refcount of each cluster, after giving its space back to the host if that was the last. Nothing
/// on disk refers to them any more.
void Image::apply_frees(std::vector<std::pair<std::uint64_t, std::uint64_t>> frees, Continue done) {
  auto freeing = std::make_unique<Freeing>();
  for (const auto& range : frees) {
    const bool busy = std::any_of(pieces_.begin(), pieces_.end(), [&](const Piece* piece) {
      return piece->length > 0 && piece->host < range.first + range.second && range.first < piece->host + piece->length;
    });
    // A transfer that began while it was in use must not meet its next use.
    if (busy)
      frees_.push_back(range);
    else
      freeing->ranges.push_back(range);
  }
  if (freeing->ranges.empty()) return done(0);
  freeing->done = std::move(done);
  lock_allocator([this, freeing = std::move(freeing)]() mutable { free_next(*freeing.release()); });
}

void Image::free_next(Freeing& f) {
  const std::uint64_t entries = meta_.header.refcount_block_entries();
  const unsigned order = meta_.header.refcount_order;
  const std::size_t slice_bytes = refcount_cache_->slice_bytes();
  const std::uint64_t per_slice = (slice_bytes * 8) >> order;
  const auto end = [this, &f](int error) {
    std::unique_ptr<Freeing> owned(&f);
    unlock_allocator();
    owned->done(error);
  };
  while (f.next < f.ranges.size()) {
    auto& [offset, length] = f.ranges[f.next];
    if (length == 0) {
      ++f.next;
      continue;
    }
    const std::uint64_t cluster = offset >> cluster_bits_;
    const std::uint64_t block = cluster / entries;
    const std::uint64_t place =
        block < meta_.refcount_table.size() ? meta_.refcount_table[block] & kRefcountOffsetMask : 0;
    if (place == 0 || (place & (cluster_ - 1))) {
      mark_corrupt(fmt::format("the freed cluster at {:#x} was never counted", offset));
      return end(EIO);
    }
    const std::uint64_t at = place + align_down<std::uint64_t>(((cluster % entries) << order) / 8, slice_bytes);
    Slice* slice = refcount_cache_->find(at);
    if (slice == nullptr) {
      refcount_cache_->get(at, [this, &f, end](int error, Slice* loaded) {
        if (error != 0) return end(error);
        refcount_cache_->unpin(*loaded);
        free_next(f);
      });
      return;
    }
    const std::uint64_t index = (cluster % entries) % per_slice;
    const std::uint64_t count = get_refcount(slice->data.get(), index, order);
    if (count == 0) {
      mark_corrupt(fmt::format("the freed cluster at {:#x} counts as free already", offset));
      return end(EIO);
    }
    if (count > 1) {
      set_refcount(slice->data.get(), index, order, count - 1);
      refcount_cache_->mark_dirty(*slice);
      offset += cluster_;
      length -= cluster_;
      continue;
    }
    // A run of clusters that become free, within the slice.
    std::uint64_t run = 1;
    while (run < length >> cluster_bits_ && index + run < per_slice &&
           get_refcount(slice->data.get(), index + run, order) == 1)
      ++run;
    const auto release = [this, order](Slice& counted, std::uint64_t first, std::uint64_t count_of,
                                       std::uint64_t from) {
      for (std::uint64_t n = 0; n < count_of; ++n) set_refcount(counted.data.get(), first + n, order, 0);
      refcount_cache_->mark_dirty(counted);
      next_cluster_ = std::min(next_cluster_, from >> cluster_bits_);
    };
    const std::uint64_t from = offset;
    offset += run * cluster_;
    length -= run * cluster_;
    if (!options_.discard || !file_->info().can_discard) {
      release(*slice, index, run, from);
      continue;
    }
    // Given back before it counts as free: a discard that came late would hit the next user's data.
    ++slice->pins;
    file_->submit({.op = core::BlockOp::discard,
                   .flags = 0,
                   .offset = from,
                   .length = run * cluster_,
                   .spans = {},
                   .completion = [this, &f, slice, index, run, from, release](int) {
                     release(*slice, index, run, from);
                     refcount_cache_->unpin(*slice);
                     free_next(f);
                   }});
    return;
  }
  end(0);
}

/// True for the image's own tables. What has been added since opening is not in the list; what the list's clusters have
/// become since does not matter: an entry that is not in use as a table now only costs its cluster.
bool Image::overlaps_metadata(std::uint64_t host) const {
  const Header& h = meta_.header;
  const auto within = [&](std::uint64_t start, std::uint64_t length) {
    return host < start + length && start < host + cluster_;
  };
  return host == 0 || within(h.l1_offset, std::uint64_t{h.l1_size} * 8) ||
         within(h.refcount_table_offset, std::uint64_t{h.refcount_table_clusters} * cluster_) ||
         std::binary_search(metadata_clusters_.begin(), metadata_clusters_.end(), host);
}

void Image::mark_corrupt(const std::string& why) {
  if (corrupt_) return;
  corrupt_ = true;
  context_.log().error("the image '{}' is corrupt: {}; it takes no more writes. 'husk img check -r all' may repair it",
                       name(), why);
  if (options_.read_only || meta_.header.version < 3) return;
  meta_.header.incompatible |= kCorrupt;
  struct Word {
    std::uint8_t bytes[8];
    core::BlockSpan span;
  };
  auto word = std::make_unique<Word>();
  store_be(word->bytes, meta_.header.incompatible);
  word->span = word->bytes;
  const std::span<const core::BlockSpan> spans(&word->span, 1);
  ++requests_;
  file_->submit({.op = core::BlockOp::write,
                 .flags = 0,
                 .offset = 72,
                 .length = 8,
                 .spans = spans,
                 .completion = [this, word = std::move(word)](int) { request_ended(); }});
}

}  // namespace husk::block::qcow2
