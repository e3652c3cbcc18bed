// husk: serves a directory of the host to a guest, by FUSE or 9P, within this process and without any rights
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "base/log.h"
#include "base/result.h"
#include "core/share_backend.h"
#include "mem/lock_domain.h"

namespace husk::hostfs {

struct ServerOptions {
  std::string root;        ///< a directory of the host
  bool read_only = false;  ///< everything that would change something gives EROFS

  /// How long the guest may believe what it was told of names and attributes without asking again, in nanoseconds. A
  /// change on the host is seen by the guest after this time at the latest.
  std::uint64_t entry_timeout_ns = 1'000'000'000;
  std::uint64_t attribute_timeout_ns = 1'000'000'000;
  /// The same for names that do not exist.
  std::uint64_t negative_timeout_ns = 0;
  /// Read-only shares: files and directories are opened without asking the server, and their pages stay in the guest's
  /// cache from one open to the next, until a new modification time is seen. A file that the host refuses then fails
  /// at its first read, not when it is opened.
  bool trust_cache = false;
  /// Extended attributes of the classes user and security.capability; without them the guest asks once only.
  bool extended_attributes = true;
  /// Locks (fcntl and flock) are taken on the host, where other processes see them; else they are known to the guest
  /// alone. A read-only share never takes them.
  bool host_locks = true;

  /// Files of this process' own user (group) appear in the guest as this one's, and the other way round. Without it
  /// the guest sees the host's numbers.
  std::optional<std::uint32_t> shown_uid = {};
  std::optional<std::uint32_t> shown_gid = {};

  /// Threads for what may take long: reads that must go to the disk, large writes, fsync.
  unsigned threads = 2;
  /// Descriptors that may be in use at a time; 0: a quarter of this process' limit.
  unsigned most_descriptors = 0;
};

/// The guest never gets out of the root: single names only are looked up, in directories held by descriptor, no
/// symbolic link is followed on the host, and each result is compared with what it is believed to be. Files of kernel
/// file systems (proc, sysfs, cgroup, ...) below the root are hidden; devices, FIFOs and sockets are shown, and never
/// opened.
///
/// One share, for one device. All of it may be used from any thread.
class Server {
 public:
  /// Fails if the root is no directory or cannot be read. Raises this process' soft limit of descriptors to its hard
  /// limit (at most 65536).
  static Result<std::unique_ptr<Server>> create(ServerOptions options, Log& log);
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// The server's end for a device whose lock domain is `domain`, asked by the FUSE protocol. Must go before the server
  /// does, and before the guest's memory; nothing may be submitted any more when it goes.
  std::unique_ptr<core::ShareBackend> attach(mem::LockDomain& domain);
  /// The same, asked by 9P2000.L.
  std::unique_ptr<core::ShareBackend> attach_ninep(mem::LockDomain& domain);

 private:
  class Impl;
  friend class Ninep;
  explicit Server(std::shared_ptr<Impl> impl) : impl_(std::move(impl)) {}
  std::shared_ptr<Impl> impl_;
};

}  // namespace husk::hostfs
