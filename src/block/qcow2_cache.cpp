// husk: pieces of qcow2's tables (L2 and refcounts) in memory
#include "block/qcow2_cache.h"

#include <algorithm>
#include <cerrno>
#include <utility>

#include "base/bits.h"
#include "base/check.h"

namespace husk::block::qcow2 {

TableCache::~TableCache() = default;

Slice* TableCache::find(std::uint64_t offset) {
  if (last_ != nullptr && last_->offset == offset) return last_;
  const auto found = slices_.find(offset);
  if (found == slices_.end() || found->second->loading) return nullptr;
  Slice& slice = *found->second;
  ages_.splice(ages_.end(), ages_, slice.age);
  last_ = &slice;
  return &slice;
}

void TableCache::get(std::uint64_t offset, Got got) {
  if (Slice* slice = find(offset)) {
    ++slice->pins;
    return got(0, slice);
  }
  if (const auto found = slices_.find(offset); found != slices_.end()) {
    found->second->waiters.push_back(std::move(got));
    return;
  }
  trim();
  auto made = std::make_unique<Slice>();
  Slice& slice = *made;
  slice.offset = offset;
  slice.data.reset(static_cast<std::uint8_t*>(std::aligned_alloc(4096, align_up<std::size_t>(slice_bytes_, 4096))));
  if (!slice.data) return got(ENOMEM, nullptr);
  slice.loading = true;
  slice.waiters.push_back(std::move(got));
  slice.age = ages_.insert(ages_.end(), &slice);
  slices_.emplace(offset, std::move(made));
  struct Load {
    core::BlockSpan span;
  };
  auto load = std::make_unique<Load>(Load{{slice.data.get(), slice_bytes_}});
  const std::span<const core::BlockSpan> spans(&load->span, 1);
  file_.submit({.op = core::BlockOp::read,
                .flags = 0,
                .offset = offset,
                .length = slice_bytes_,
                .spans = spans,
                .completion = [this, &slice, load = std::move(load)](int error) { loaded(slice, error); }});
}

void TableCache::loaded(Slice& slice, int error) {
  slice.loading = false;
  auto waiters = std::exchange(slice.waiters, {});
  if (error != 0) {
    if (slice.forgotten) {
      release_if_forgotten(slice);
    } else {
      ages_.erase(slice.age);
      slices_.erase(slice.offset);
    }
    for (Got& got : waiters) got(error, nullptr);
    return;
  }
  slice.pins += static_cast<unsigned>(waiters.size());
  for (Got& got : waiters) got(0, &slice);
}

void TableCache::unpin(Slice& slice) {
  HUSK_CHECK(slice.pins > 0);
  --slice.pins;
  release_if_forgotten(slice);
}

void TableCache::release_if_forgotten(Slice& slice) {
  if (slice.forgotten && slice.pins == 0 && !slice.saving && !slice.loading)
    std::erase_if(forgotten_, [&](const auto& owned) { return owned.get() == &slice; });
}

void TableCache::mark_dirty(Slice& slice) {
  if (slice.dirty || slice.forgotten) return;
  slice.dirty = true;
  dirty_.push_back(&slice);
}

void TableCache::forget(std::uint64_t offset, std::uint64_t length) {
  for (std::uint64_t at = offset; at < offset + length; at += slice_bytes_) {
    const auto found = slices_.find(at);
    if (found == slices_.end()) continue;
    Slice& slice = *found->second;
    if (last_ == &slice) last_ = nullptr;
    if (slice.dirty) std::erase(dirty_, &slice);
    slice.dirty = false;
    ages_.erase(slice.age);
    if (slice.pins > 0 || slice.saving || slice.loading) {
      slice.forgotten = true;
      forgotten_.push_back(std::move(found->second));
    }
    slices_.erase(found);
  }
}

void TableCache::clear() {
  for (const auto& [offset, slice] : slices_)
    HUSK_CHECK(slice->pins == 0 && !slice->dirty && !slice->saving && !slice->loading);
  slices_.clear();
  ages_.clear();
  last_ = nullptr;
}

void TableCache::trim() {
  if (slices_.size() < capacity_) return;
  unsigned looked = 0;
  for (auto it = ages_.begin(); it != ages_.end() && slices_.size() >= capacity_ && looked < 64;) {
    Slice& slice = **it;
    if (slice.pins > 0 || slice.dirty || slice.saving || slice.loading) {
      // Younger again, so that a row of dirty slices at the old end is not looked through each time.
      ++looked;
      ages_.splice(ages_.end(), ages_, it++);
      continue;
    }
    it = ages_.erase(it);
    if (last_ == &slice) last_ = nullptr;
    slices_.erase(slice.offset);
  }
}

std::vector<Slice*> TableCache::take_dirty() {
  for (Slice* slice : dirty_) {
    slice->dirty = false;
    slice->saving = true;
  }
  return std::exchange(dirty_, {});
}

void TableCache::saved(Slice& slice, int error) {
  slice.saving = false;
  if (error != 0) mark_dirty(slice);
  release_if_forgotten(slice);
}

}  // namespace husk::block::qcow2
