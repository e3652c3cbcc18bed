// husk: guest memory that is a file of the host (QEMU's memory-backend-file)
#pragma once

#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/persistent_memory.h"
#include "host/thread.h"
#include "host/unique_fd.h"
#include "mem/lock_domain.h"

namespace husk::machine {

/// What the guest writes is in the file at once, as far as other processes see it, and on stable storage after a flush;
/// flushes run on a thread of its own, and those that wait become one.
class MemoryFile final : public core::PersistentMemory {
 public:
  struct Options {
    std::string path;
    std::uint64_t size = 0;  ///< bytes, a multiple of 4 KiB
    bool shared = true;      ///< false: what the guest writes is lost in the end, and flushes do nothing
  };
  /// A file that is not there, or is empty, becomes one of this size; a smaller one is refused, of a larger one its
  /// beginning is used. All of a shared file gets its space on the disk now: a guest that wrote to a full disk by way
  /// of a mapping could not be told. Nobody may cut the file short while it is in use.
  static Result<std::unique_ptr<MemoryFile>> create(Options options, mem::LockDomain& domain);
  ~MemoryFile() override;

  mem::RamRegion& region() override { return *region_; }
  void flush(std::move_only_function<void(bool stable)> completion) override;
  void drain() override;

 private:
  MemoryFile(host::UniqueFd fd, std::unique_ptr<mem::RamRegion> region, bool shared, mem::LockDomain& domain)
      : fd_(std::move(fd)), region_(std::move(region)), shared_(shared), domain_(domain) {}
  void work();

  host::UniqueFd fd_;
  std::unique_ptr<mem::RamRegion> region_;
  const bool shared_;
  mem::LockDomain& domain_;
  std::mutex mutex_;  ///< never held while the domain is taken
  std::condition_variable wake_, done_;
  std::vector<std::move_only_function<void(bool)>> waiting_;
  bool busy_ = false, ending_ = false;
  host::Thread thread_;
};

}  // namespace husk::machine
