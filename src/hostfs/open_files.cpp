// husk: what the guest has open of a shared tree
#include "hostfs/open_files.h"

#include <cerrno>

namespace husk::hostfs {

namespace {
constexpr std::uint32_t slot_of(std::uint64_t handle) { return static_cast<std::uint32_t>(handle) - 1; }
constexpr std::uint64_t handle_of(std::uint32_t slot, std::uint32_t generation) {
  return (std::uint64_t{generation} << 32) | (slot + 1);
}
}  // namespace

const HandleTable::Slot* HandleTable::find_slot(std::uint64_t handle) const {
  const std::uint32_t slot = slot_of(handle);
  if (slot >= slots_.size() || !slots_[slot].file || slots_[slot].generation != handle >> 32) return nullptr;
  return &slots_[slot];
}

Outcome<std::uint64_t> HandleTable::add(OpenFileRef file) {
  const std::lock_guard lock(mutex_);
  if (used_ + reserved_ >= most_) return std::unexpected(ENFILE);
  if (free_.empty()) {
    free_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  const std::uint32_t slot = free_.back();
  free_.pop_back();
  slots_[slot].file = std::move(file);
  ++used_;
  return handle_of(slot, slots_[slot].generation);
}

OpenFileRef HandleTable::find(std::uint64_t handle, NodeId node) const {
  const std::lock_guard lock(mutex_);
  const Slot* const slot = find_slot(handle);
  return slot && slot->file->node == node ? slot->file : nullptr;
}

OpenFileRef HandleTable::remove(std::uint64_t handle, NodeId node) {
  const std::lock_guard lock(mutex_);
  const Slot* const found = find_slot(handle);
  if (!found || found->file->node != node) return nullptr;
  Slot& slot = slots_[slot_of(handle)];
  ++slot.generation;
  free_.push_back(slot_of(handle));
  --used_;
  return std::exchange(slot.file, nullptr);
}

void HandleTable::clear() {
  const std::lock_guard lock(mutex_);
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].file) continue;
    slots_[i].file.reset();
    ++slots_[i].generation;
    free_.push_back(i);
  }
  used_ = reserved_ = 0;
}

bool HandleTable::reserve(std::size_t count) {
  const std::lock_guard lock(mutex_);
  if (used_ + reserved_ + count > most_) return false;
  reserved_ += count;
  return true;
}

void HandleTable::give_back(std::size_t count) {
  const std::lock_guard lock(mutex_);
  reserved_ -= std::min(reserved_, count);
}

std::vector<HandleTable::Saved> HandleTable::save() const {
  const std::lock_guard lock(mutex_);
  std::vector<Saved> saved;
  for (std::uint32_t i = 0; i < slots_.size(); ++i)
    if (slots_[i].file) saved.push_back({handle_of(i, slots_[i].generation), slots_[i].file});
  return saved;
}

bool HandleTable::restore(std::uint64_t handle, OpenFileRef file) {
  const std::lock_guard lock(mutex_);
  const std::uint32_t slot = slot_of(handle);
  if (slot >= most_ || (slot < slots_.size() && slots_[slot].file)) return false;
  while (slots_.size() <= slot) {
    free_.push_back(static_cast<std::uint32_t>(slots_.size()));
    slots_.emplace_back();
  }
  std::erase(free_, slot);
  slots_[slot] = {std::move(file), static_cast<std::uint32_t>(handle >> 32)};
  ++used_;
  return true;
}

OpenFileRef RecentFiles::find(NodeId node) {
  const std::lock_guard lock(mutex_);
  const auto found = by_node_.find(node);
  if (found == by_node_.end()) return nullptr;
  files_.splice(files_.begin(), files_, found->second);
  return files_.front();
}

void RecentFiles::add(OpenFileRef file) {
  const std::lock_guard lock(mutex_);
  if (by_node_.contains(file->node)) return;
  files_.push_front(std::move(file));
  by_node_.emplace(files_.front()->node, files_.begin());
  while (files_.size() > most_) {
    by_node_.erase(files_.back()->node);
    files_.pop_back();
  }
}

void RecentFiles::clear() {
  const std::lock_guard lock(mutex_);
  by_node_.clear();
  files_.clear();
}

}  // namespace husk::hostfs
