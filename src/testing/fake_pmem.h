// husk: persistent memory that is flushed at once or when told, or fails to be
#pragma once

#include <deque>
#include <memory>
#include <utility>

#include "core/persistent_memory.h"

namespace husk::testing {

class FakePmem final : public core::PersistentMemory {
 public:
  explicit FakePmem(std::uint64_t bytes) : region_(mem::RamRegion::create("pmem", bytes).value()) {}
  mem::RamRegion& region() override { return *region_; }
  void flush(std::move_only_function<void(bool)> completion) override {
    ++flushes;
    if (hold)
      held.push_back(std::move(completion));
    else
      completion(!fail);
  }
  void drain() override {
    while (!held.empty()) complete();
  }
  void complete(std::size_t index = 0) {
    auto one = std::move(held[index]);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    one(!fail);
  }
  unsigned flushes = 0;
  bool hold = false, fail = false;
  std::deque<std::move_only_function<void(bool)>> held;

 private:
  std::unique_ptr<mem::RamRegion> region_;
};

}  // namespace husk::testing
