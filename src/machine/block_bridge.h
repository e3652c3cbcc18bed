// husk: brings a disk device, called by CPU threads, together with a block backend that lives on a loop
#pragma once

#include <memory>

#include "core/block_backend.h"
#include "host/event_loop.h"
#include "mem/lock_domain.h"

namespace husk::machine {

/// Calls come from the device with `domain` held, on any thread; what is submitted is passed on together in the loop's
/// next round. Completions are brought back with the domain held. Destroyed on the loop's thread, when nothing calls
/// any more: waits until all is done.
class BlockBridge final : public core::BlockBackend {
 public:
  /// `below` and the loop outlive the bridge. Made on the loop's thread.
  BlockBridge(host::EventLoop& loop, mem::LockDomain& domain, core::BlockBackend& below);
  ~BlockBridge() override;

  core::BlockInfo info() const override { return info_; }
  void submit(core::BlockRequest request) override;
  void drain(std::move_only_function<void()> done) override;
  void set_resized(std::function<void()> resized) override;

 private:
  struct Shared;
  host::EventLoop& loop_;
  core::BlockInfo info_;  ///< under the domain
  std::shared_ptr<Shared> shared_;
};

}  // namespace husk::machine
