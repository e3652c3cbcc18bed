// husk: a node over one other, which lets pass what it does not care about
#pragma once

#include <memory>
#include <utility>

#include "block/node.h"

namespace husk::block {

class Filter : public Node {
 public:
  explicit Filter(std::unique_ptr<Node> below) : below_(std::move(below)) {}
  const std::string& name() const override { return below_->name(); }
  core::BlockInfo info() const override { return below_->info(); }
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

 protected:
  std::unique_ptr<Node> below_;
};

}  // namespace husk::block
