// husk: the disks, networks and shared folders of one run, opened on the host
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/log.h"
#include "base/result.h"
#include "block/context.h"
#include "block/node.h"
#include "core/block_backend.h"
#include "core/net_backend.h"
#include "core/persistent_memory.h"
#include "core/share_backend.h"
#include "host/event_loop.h"
#include "hostfs/server.h"
#include "machine/config.h"
#include "mem/lock_domain.h"
#include "netdev/user_network.h"

namespace husk::app {

/// Made before the machine and destroyed after it, on the main thread. Nodes and networks live on the main loop.
class StorageAndNetworks {
 public:
  StorageAndNetworks(host::EventLoop& loop, Log& log, const machine::MachineConfig& config)
      : loop_(loop), log_(log), config_(config) {}
  /// Closes the disks; what goes wrong then is logged.
  ~StorageAndNetworks();

  /// Opens the drive; a drive has one user.
  Result<std::unique_ptr<core::BlockBackend>> attach_drive(const std::string& id, mem::LockDomain& domain,
                                                           bool read_only = false);
  Result<std::unique_ptr<core::NetBackend>> attach_network(const std::string& id, mem::LockDomain& domain);
  /// Each device has a server of its own, so that two may share one folder.
  Result<std::unique_ptr<core::ShareBackend>> attach_folder(const std::string& id, mem::LockDomain& domain);
  /// The same for virtio-9p.
  Result<std::unique_ptr<core::ShareBackend>> attach_ninep(const std::string& id, mem::LockDomain& domain);

  /// Opens the file; a file has one user.
  Result<std::unique_ptr<core::PersistentMemory>> attach_memory(const std::string& id, mem::LockDomain& domain);

  /// Of the network of this id; 1 if it has none.
  unsigned network_queues(const std::string& id) const;

 private:
  Result<std::unique_ptr<core::NetBackend>> open_network(const machine::NetdevConfig& config, mem::LockDomain& domain);
  Result<std::unique_ptr<core::NetBackend>> open_user(const machine::UserNetConfig& user, mem::LockDomain& domain);

  Result<hostfs::Server*> serve(const std::string& id);

  host::EventLoop& loop_;
  Log& log_;
  const machine::MachineConfig& config_;
  std::unique_ptr<block::Context> blocks_;
  std::map<std::string, std::unique_ptr<block::Node>> disks_;
  std::set<std::string> networks_;  ///< those in use
  std::set<std::string> memory_files_;
  std::vector<std::unique_ptr<netdev::UserNetwork>> user_networks_;
  std::vector<std::unique_ptr<hostfs::Server>> folders_;
};

}  // namespace husk::app
