// husk: guest memory that is a file of the host
#include "machine/memory_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "host/file.h"

namespace husk::machine {

Result<std::unique_ptr<MemoryFile>> MemoryFile::create(Options options, mem::LockDomain& domain) {
  const std::string what = "memory file " + options.path;
  if (options.size == 0 || options.size % mem::kPageSize)
    return fail("{}: {} bytes are no whole number of 4 KiB pages", what, options.size);
  auto fd = HUSK_TRY(host::open_file(options.path, O_RDWR | O_CREAT, 0600));
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return fail_errno(errno, what);
  if (!S_ISREG(status.st_mode)) return fail("{} is no file", what);
  const auto there = static_cast<std::uint64_t>(status.st_size);
  if (there == 0 && ::ftruncate(fd.get(), static_cast<off_t>(options.size)) != 0)
    return fail_errno(errno, fmt::format("cannot make {} {} bytes long", what, options.size));
  if (there != 0 && there < options.size)
    return std::unexpected(Error{fmt::format("{} has {} bytes, less than its size {}", what, there, options.size),
                                 "give a smaller size, or let husk make the file"});
  if (options.shared) {
    int error = 0;
    do error = ::fallocate(fd.get(), 0, 0, static_cast<off_t>(options.size)) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error && error != EOPNOTSUPP)
      return fail_errno(error, fmt::format("cannot give {} its {} bytes", what, options.size));
  }
  auto region = HUSK_TRY(mem::RamRegion::map_file(options.path, fd.get(), options.size, options.shared));
  std::unique_ptr<MemoryFile> file(new MemoryFile(std::move(fd), std::move(region), options.shared, domain));
  file->thread_ = HUSK_TRY(host::Thread::start("husk-pmem", [raw = file.get()] { raw->work(); }));
  return file;
}

MemoryFile::~MemoryFile() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

void MemoryFile::flush(std::move_only_function<void(bool stable)> completion) {
  if (!shared_) return completion(true);
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(completion));
  }
  wake_.notify_one();
}

void MemoryFile::drain() {
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return waiting_.empty() && !busy_; });
}

void MemoryFile::work() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) return;
    auto completions = std::exchange(waiting_, {});
    busy_ = true;
    lock.unlock();
    // All of them came before this call, so it is the flush that each wants. fsync writes what was written through
    // mappings as well (msync(2)).
    const bool stable = ::fsync(fd_.get()) == 0;
    {
      const mem::DomainGuard guard(&domain_);
      for (auto& completion : completions) completion(stable);
    }
    completions.clear();
    lock.lock();
    busy_ = false;
    done_.notify_all();
  }
}

}  // namespace husk::machine
