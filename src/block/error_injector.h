// husk: a filter that lets requests fail as told, for tests of what is above it
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "block/node.h"

namespace husk::block {

struct InjectionRule {
  bool reads = true;
  bool writes = true;  ///< also write_zeroes and discard
  bool flushes = false;
  int error = 5;                          ///< errno
  std::optional<std::uint64_t> sector{};  ///< of 512 bytes: only requests that touch it; never flushes
  bool once = false;
};

/// A request to which a rule applies fails without reaching the node below. Rules are looked at in their order.
class ErrorInjector final : public Node {
 public:
  ErrorInjector(std::unique_ptr<Node> below, std::vector<InjectionRule> rules)
      : below_(std::move(below)), rules_(std::move(rules)) {}
  const std::string& name() const override { return below_->name(); }
  std::string_view driver() const override { return "blkdebug"; }
  core::BlockInfo info() const override { return below_->info(); }
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override { below_->drain(std::move(done)); }
  void begin_batch() override { below_->begin_batch(); }
  void end_batch() override { below_->end_batch(); }
  void set_resized(std::function<void()> resized) override { below_->set_resized(std::move(resized)); }
  void status(std::uint64_t offset, std::uint64_t length, StatusDone done) override {
    below_->status(offset, length, std::move(done));
  }
  void resize_to(std::uint64_t size, Preallocation preallocation, core::BlockCompletion done) override {
    below_->resize_to(size, preallocation, std::move(done));
  }
  core::BlockSnapshotting* snapshotting() override { return below_->snapshotting(); }
  Node* backing() override { return below_->backing(); }
  Node* child() override { return below_.get(); }
  void close(core::BlockCompletion done) override { below_->close(std::move(done)); }

 private:
  std::unique_ptr<Node> below_;
  std::vector<InjectionRule> rules_;
};

}  // namespace husk::block
