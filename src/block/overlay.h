// husk: copy-on-write in memory (`snapshot=on`): writes stay here, reads of what was not written come from below
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "block/context.h"
#include "block/node.h"

namespace husk::block {

/// What is written is kept in blocks of 4 KiB for the life of the node; at most the disk's size. A node without `below`
/// is an empty disk in memory.
class Overlay final : public Node {
 public:
  Overlay(std::unique_ptr<Node> below, std::uint64_t size);
  const std::string& name() const override { return name_; }
  std::string_view driver() const override { return "memory"; }
  bool growable() const override { return growable_; }
  /// As a protocol: writes past the end extend it, for formats in memory.
  void set_growable() { growable_ = true; }
  core::BlockInfo info() const override;
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override;
  void set_resized(std::function<void()> resized) override { resized_ = std::move(resized); }
  void status(std::uint64_t offset, std::uint64_t length, StatusDone done) override;
  void resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) override;
  Node* backing() override { return below_.get(); }
  std::optional<std::uint64_t> allocated_bytes() override { return blocks_.size() * kBlock; }
  void close(core::BlockCompletion done) override;

 private:
  static constexpr std::uint64_t kBlock = 4096;
  struct Work;
  using Block = std::unique_ptr<std::uint8_t[]>;
  void read(core::BlockRequest request);
  void write(std::shared_ptr<Work> work);
  void store(Work& work);
  void finish(core::BlockCompletion& completion, int error);
  bool zero_below(std::uint64_t offset) const;

  std::unique_ptr<Node> below_;
  std::uint64_t size_, below_size_;
  std::string name_;
  bool growable_ = false;
  std::function<void()> resized_;
  std::unordered_map<std::uint64_t, Block> blocks_;  // null: zeroes
  unsigned in_flight_ = 0;
  std::vector<std::move_only_function<void()>> drained_;
};

}  // namespace husk::block
