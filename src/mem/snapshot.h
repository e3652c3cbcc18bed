// husk: an immutable value swapped whole, read without a lock
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace husk::mem {

/// Holds the current T; readers pin it with two uncontended atomic increments and never wait. A writer retires the
/// old value, which is freed once every reader that could see it has left. Writers do not wait for readers either, so
/// a reader may publish a new value from inside its own read section (a PCI BAR moved by a configuration write).
template <class T>
class Snapshot {
 public:
  explicit Snapshot(std::unique_ptr<const T> first) : current_(first.release()) {}
  ~Snapshot() { delete current_.load(); }
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;

  class Reader {
   public:
    explicit Reader(const Snapshot& owner) : owner_(owner) {
      for (;;) {
        epoch_ = owner_.epoch_.load();
        owner_.readers_[epoch_ & 1].fetch_add(1);
        // The epoch may have moved between the two lines; then this count could belong to a later generation.
        if (owner_.epoch_.load() == epoch_) break;
        owner_.readers_[epoch_ & 1].fetch_sub(1);
      }
      value_ = owner_.current_.load();
    }
    ~Reader() { owner_.readers_[epoch_ & 1].fetch_sub(1); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;
    const T& operator*() const { return *value_; }
    const T* operator->() const { return value_; }

   private:
    const Snapshot& owner_;
    std::uint32_t epoch_;
    const T* value_;
  };

  /// Publishes make(current); concurrent writers are serialised.
  template <class Make>
  void update(Make&& make) {
    const std::lock_guard lock(writers_);
    std::unique_ptr<const T> next = make(*current_.load());
    const std::uint32_t epoch = epoch_.load();
    retired_[epoch & 1].emplace_back(current_.exchange(next.release()));
    // Values retired in the previous epoch can go, and the epoch advance, once its readers have drained.
    if (readers_[(epoch + 1) & 1].load() == 0) {
      retired_[(epoch + 1) & 1].clear();
      epoch_.store(epoch + 1);
    }
  }

 private:
  std::atomic<const T*> current_;
  mutable std::atomic<std::uint32_t> readers_[2] = {};
  std::atomic<std::uint32_t> epoch_{0};
  std::mutex writers_;
  std::vector<std::unique_ptr<const T>> retired_[2];
};

}  // namespace husk::mem
