// husk: from guest offsets to clusters: L1, L2 and (sub)cluster entries of qcow2
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/bits.h"
#include "base/check.h"
#include "block/qcow2_private.h"

namespace husk::block::qcow2 {

std::uint64_t Image::l2_slice_offset(std::uint64_t l2_table, std::uint64_t guest) const {
  const std::uint64_t index = (guest >> cluster_bits_) % (cluster_ / entry_bytes_);
  return l2_table + align_down<std::uint64_t>(index * entry_bytes_, l2_cache_->slice_bytes());
}

/// Where the guest range of the slice that maps `guest` ends.
std::uint64_t Image::slice_end(std::uint64_t guest) const { return align_down(guest, slice_reach_) + slice_reach_; }

Image::Entry Image::load_entry(const Slice& slice, std::uint64_t guest) const {
  const std::size_t at = (guest & (slice_reach_ - 1)) / cluster_ * entry_bytes_;
  Entry entry{load_be<std::uint64_t>(slice.data.get() + at), 0};
  if (entry_bytes_ == 16) entry.bitmap = load_be<std::uint64_t>(slice.data.get() + at + 8);
  return entry;
}

void Image::store_entry(Slice& slice, std::uint64_t guest, Entry entry) {
  const std::size_t at = (guest & (slice_reach_ - 1)) / cluster_ * entry_bytes_;
  store_be(slice.data.get() + at, entry.word);
  if (entry_bytes_ == 16) store_be(slice.data.get() + at + 8, entry.bitmap);
  l2_cache_->mark_dirty(slice);
}

/// True if the entry has clusters of its own in the file, compressed ones apart.
bool Image::has_host(Entry entry) const {
  if (entry.word & kCompressed) return false;
  // Offset 0 is a place in an external data file; only the flag tells it from none.
  return (entry.word & kOffsetMask) != 0 || (external_ && (entry.word & kCopied));
}

/// The (sub)cluster at `guest`: its length counts from there to its end.
Image::Run Image::unit_at(Entry entry, std::uint64_t guest) const {
  Run run;
  const std::uint64_t within = guest & (cluster_ - 1);
  if (entry.word & kCompressed) {
    run.kind = Kind::compressed;
    run.entry = entry.word;
    run.length = cluster_ - within;
    return run;
  }
  run.length = subcluster_ - (guest & (subcluster_ - 1));
  const bool host = has_host(entry);
  bool zero = false, data = host;
  if (entry_bytes_ == 16) {
    const auto n = static_cast<unsigned>(within / subcluster_);
    data = bit(entry.bitmap, n);
    zero = bit(entry.bitmap, n + 32);
    if ((data && zero) || (data && !host)) run.kind = Kind::invalid;
  } else {
    zero = meta_.header.version >= 3 && (entry.word & kZero) != 0;
  }
  if (run.kind == Kind::invalid) return run;
  if (zero) {
    run.kind = Kind::zero;
  } else if (data) {
    run.kind = Kind::normal;
    run.host = (entry.word & kOffsetMask) + within;
    run.owned = (entry.word & kCopied) != 0;
    if ((entry.word & kOffsetMask) & (cluster_ - 1)) run.kind = Kind::invalid;
  }
  return run;
}

Image::Run Image::look(const Slice* slice, std::uint64_t guest, std::uint64_t most) const {
  if (slice == nullptr) {
    // No L2 table: all that it would map is like this.
    const std::uint64_t reach = meta_.header.l2_reach();
    return {.kind = Kind::unallocated, .length = std::min(most, align_down(guest, reach) + reach - guest)};
  }
  most = std::min(most, slice_end(guest) - guest);
  Run run = unit_at(load_entry(*slice, guest), guest);
  if (run.kind == Kind::compressed || run.kind == Kind::invalid) {
    run.length = std::min(run.length, most);
    return run;
  }
  while (run.length < most) {
    const std::uint64_t at = guest + run.length;
    const Run next = unit_at(load_entry(*slice, at), at);
    if (next.kind != run.kind) break;
    if (run.kind == Kind::normal && (next.host != run.host + run.length || next.owned != run.owned)) break;
    run.length += next.length;
  }
  run.length = std::min(run.length, most);
  return run;
}

void Image::free_entry(Entry entry) {
  if (external_) return;
  if (entry.word & kCompressed) {
    const auto place = meta_.header.compressed_place(entry.word);
    if (decompressed_entry_ == entry.word) decompressed_entry_ = 0;
    if (compressed_end_ != 0 && compressed_end_ - 1 < place.offset + place.length + cluster_ &&
        place.offset < compressed_end_)
      compressed_end_ = 0;
    const std::uint64_t first = align_down(place.offset, cluster_);
    free_later(first, align_up(place.offset + place.length, cluster_) - first);
  } else if (entry.word & kOffsetMask) {
    free_later(entry.word & kOffsetMask, cluster_);
  }
}

void Image::find_slice(std::uint64_t guest, TableCache::Got got) {
  const std::uint64_t index = guest / meta_.header.l2_reach();
  HUSK_CHECK(index < meta_.l1.size());
  const std::uint64_t table = meta_.l1[index] & kOffsetMask;
  if (table == 0) return got(0, nullptr);
  if (table & (cluster_ - 1)) {
    mark_corrupt(fmt::format("the L2 table for guest offset {:#x} is at {:#x}, not at a cluster", guest, table));
    return got(EIO, nullptr);
  }
  l2_cache_->get(l2_slice_offset(table, guest), std::move(got));
}

void Image::own_slice(std::uint64_t guest, TableCache::Got got) {
  const std::uint64_t index = guest / meta_.header.l2_reach();
  HUSK_CHECK(index < meta_.l1.size());
  if ((meta_.l1[index] & kCopied) && (meta_.l1[index] & kOffsetMask)) return find_slice(guest, std::move(got));
  make_l2_table(index, [this, guest, got = std::move(got)](int error) mutable {
    if (error != 0)
      got(error, nullptr);
    else
      find_slice(guest, std::move(got));
  });
}

/// A new L2 table: empty, or a copy of one that a snapshot shares. It is written before the L1 table knows of it.
void Image::make_l2_table(std::uint64_t index, Continue done) {
  allocate(1, [this, index, done = std::move(done)](int error, std::uint64_t host, std::uint64_t) mutable {
    if (error != 0) return done(error);
    // Another request may have made it while this one waited for the allocator.
    if ((meta_.l1[index] & kCopied) && (meta_.l1[index] & kOffsetMask)) {
      free_later(host, cluster_);
      return done(0);
    }
    const std::uint64_t old = meta_.l1[index] & kOffsetMask;
    l2_cache_->forget(host, cluster_);
    struct Copy {
      std::vector<std::uint8_t> content;
      core::BlockSpan span;
      Continue done;
    };
    auto* copy = new Copy{std::vector<std::uint8_t>(cluster_), {}, std::move(done)};
    copy->span = copy->content;
    auto write = [this, index, host, old, copy](int failed) {
      std::unique_ptr<Copy> owned(copy);
      if (failed != 0) {
        free_later(host, cluster_);
        return owned->done(failed);
      }
      const std::span<const core::BlockSpan> spans(&owned->span, 1);
      file_->submit({.op = core::BlockOp::write,
                     .flags = 0,
                     .offset = host,
                     .length = cluster_,
                     .spans = spans,
                     .completion = [this, index, host, old, owned = std::move(owned)](int result) mutable {
                       const bool won = (meta_.l1[index] & kCopied) && (meta_.l1[index] & kOffsetMask);
                       if (result != 0 || won) {
                         free_later(host, cluster_);
                       } else {
                         meta_.l1[index] = host | kCopied;
                         l1_dirty_[index / 64] = true;
                         any_l1_dirty_ = true;
                         if (old != 0) {
                           free_later(old, cluster_);
                           const auto known =
                               std::lower_bound(metadata_clusters_.begin(), metadata_clusters_.end(), old);
                           if (known != metadata_clusters_.end() && *known == old) metadata_clusters_.erase(known);
                         }
                       }
                       owned->done(won ? 0 : result);
                     }});
    };
    if (old == 0) return write(0);
    if (old & (cluster_ - 1)) return write(EIO);
    file_->submit({.op = core::BlockOp::read,
                   .flags = 0,
                   .offset = old,
                   .length = cluster_,
                   .spans = {&copy->span, 1},
                   .completion = std::move(write)});
  });
}

}  // namespace husk::block::qcow2
