// husk: guest RAM
#include "mem/ram_region.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/bits.h"

namespace husk::mem {

namespace {
// KVM maps 2 MiB of a guest at once only where host and guest addresses agree in their low 21 bits.
constexpr std::uint64_t kHugePage = std::uint64_t{2} << 20;

/// Address space for `size` bytes, aligned to a huge page if there is one in it.
std::uint8_t* reserve(std::uint64_t size) {
  const std::uint64_t reserved = size + (size >= kHugePage ? kHugePage : 0);
  void* area = ::mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (area == MAP_FAILED) return nullptr;
  auto* data = static_cast<std::uint8_t*>(area);
  if (reserved != size) {
    const std::uint64_t before = (kHugePage - reinterpret_cast<std::uintptr_t>(data) % kHugePage) % kHugePage;
    if (before) (void)::munmap(data, before);
    data += before;
    (void)::munmap(data + size, kHugePage - before);
  }
  return data;
}
}  // namespace

Result<std::unique_ptr<RamRegion>> RamRegion::create(std::string name, std::uint64_t size) {
  size = align_up(size, kPageSize);
  if (size == 0) return fail("RAM region {} would be empty", name);
  std::uint8_t* const data = reserve(size);
  if (!data) return fail_errno(errno, fmt::format("cannot map {} MiB of memory for {}", size >> 20, name));
  // A page fault is expensive on virtual hosts, so ask for huge pages; a host without them serves small ones.
  (void)::madvise(data, size, MADV_HUGEPAGE);
  return std::unique_ptr<RamRegion>(new RamRegion(std::move(name), size, data));
}

Result<std::unique_ptr<RamRegion>> RamRegion::map_file(std::string name, int fd, std::uint64_t size, bool shared) {
  size = align_up(size, kPageSize);
  if (size == 0) return fail("RAM region {} would be empty", name);
  std::uint8_t* const data = reserve(size);
  const int flags = MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE | MAP_NORESERVE);
  if (!data || ::mmap(data, size, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED) {
    auto error = fail_errno(errno, fmt::format("cannot map {} MiB of {}", size >> 20, name));
    if (data) (void)::munmap(data, size);
    return error;
  }
  return std::unique_ptr<RamRegion>(new RamRegion(std::move(name), size, data));
}

RamRegion::RamRegion(std::string name, std::uint64_t size, std::uint8_t* data)
    : name_(std::move(name)),
      size_(size),
      data_(data),
      flags_(std::make_unique<std::atomic<std::uint8_t>[]>(size / kPageSize)) {}

RamRegion::~RamRegion() { ::munmap(data_, size_); }

void RamRegion::note_write_slow(std::uint64_t page, std::uint64_t offset, std::uint64_t length) {
  const std::uint8_t flags = flags_[page].load(std::memory_order_acquire);
  if (flags & kTracked) {
    if (dirty_) dirty_[page].store(1, std::memory_order_release);
    clear_page_flags(page * kPageSize, kTracked);
  }
  if ((flags & kHasCode) && listener_.code_written) {
    const std::uint64_t first = std::max(offset, page * kPageSize);
    const std::uint64_t end = std::min(offset + length, (page + 1) * kPageSize);
    listener_.code_written(*this, first, end - first);
  }
}

void RamRegion::start_dirty_log() {
  dirty_ = std::make_unique<std::atomic<std::uint8_t>[]>(size_ / kPageSize);
  for (std::uint64_t offset = 0; offset < size_; offset += kPageSize) set_page_flags(offset, kTracked);
  if (listener_.protection_changed) listener_.protection_changed(*this);
}

void RamRegion::stop_dirty_log() {
  for (std::uint64_t offset = 0; offset < size_; offset += kPageSize) clear_page_flags(offset, kTracked);
  dirty_.reset();
  if (listener_.protection_changed) listener_.protection_changed(*this);
}

void RamRegion::take_dirty(const std::function<void(std::uint64_t)>& each) {
  if (!dirty_) return;
  if (listener_.collect_dirty) listener_.collect_dirty(*this);
  bool any = false;
  for (std::uint64_t page = 0; page < size_ / kPageSize; ++page) {
    if (!dirty_[page].load(std::memory_order_relaxed)) continue;
    dirty_[page].store(0, std::memory_order_relaxed);
    set_page_flags(page * kPageSize, kTracked);
    each(page);
    any = true;
  }
  if (any && listener_.protection_changed) listener_.protection_changed(*this);
}

}  // namespace husk::mem
