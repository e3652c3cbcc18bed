// husk: an address space: what answers at each guest-physical address or I/O port
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/bits.h"
#include "base/result.h"
#include "mem/io_handler.h"
#include "mem/lock_domain.h"
#include "mem/ram_region.h"
#include "mem/snapshot.h"

namespace husk::mem {

class AddressSpace;

/// Keeps something mapped for as long as it lives; movable.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept : space_(std::exchange(other.space_, nullptr)), id_(other.id_) {}
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping() { reset(); }
  void reset();
  explicit operator bool() const { return space_ != nullptr; }

 private:
  friend class AddressSpace;
  Mapping(AddressSpace* space, std::uint64_t id) : space_(space), id_(id) {}
  AddressSpace* space_ = nullptr;
  std::uint64_t id_ = 0;
};

/// How a handler wants to be called.
struct MapOptions {
  LockDomain* domain = nullptr;  ///< taken around each call; null for handlers that need no lock
  std::uint8_t max_size = 8;     ///< wider accesses are split into pieces of this size, lowest address first
  int priority = 0;              ///< where mappings overlap the higher one answers; equal ones: the later
  std::string name;              ///< for `inspect` and traces
};

/// What is behind an address, as look-up finds it.
struct Target {
  IoHandler* handler = nullptr;  ///< null: RAM or nothing
  RamRegion* ram = nullptr;
  bool writable = false;          ///< RAM only; writes to read-only RAM (a ROM) are dropped
  std::uint64_t offset = 0;       ///< into the handler's mapping or the region
  std::uint64_t length = 0;       ///< bytes from the address on with the same target
};

/// Look-up is by an immutable sorted snapshot and takes no lock. Reads of nothing give all ones, writes to nothing
/// are dropped, as on a PC's bus.
class AddressSpace {
 public:
  /// `size` is one past the highest address.
  explicit AddressSpace(std::string name, std::uint64_t size = ~std::uint64_t{0});
  ~AddressSpace();

  /// Maps `handler` at [base, base+length). The handler must outlive the Mapping. Refuses an empty range and one that
  /// leaves the space.
  Result<Mapping> map(Gpa base, std::uint64_t length, IoHandler& handler, MapOptions options);
  /// Maps bytes [offset, offset+length) of RAM; all three page-aligned.
  Result<Mapping> map_ram(Gpa base, std::uint64_t length, RamRegion& ram, std::uint64_t offset, bool writable,
                          int priority = 0);

  Target find(Gpa address) const;

  /// An access of 1 to 8 bytes by a CPU, device or debugger. It may cross mappings, and is then made bytewise.
  std::uint64_t read(Requester who, Gpa address, unsigned size);
  void write(Requester who, Gpa address, std::uint64_t value, unsigned size);

  /// Calls `each` for every range, in order of address.
  void enumerate(const std::function<void(Gpa base, std::uint64_t length, const std::string& name, const Target&)>& each) const;

  /// Keeps a listener registered for as long as it lives.
  using ChangeListener = std::shared_ptr<const std::function<void()>>;
  /// `changed` is called after every change of the layout, on the thread that made it; TLBs must forget what they know.
  /// To be registered before other threads use the space.
  [[nodiscard]] ChangeListener on_change(std::function<void()> changed) {
    auto listener = std::make_shared<const std::function<void()>>(std::move(changed));
    listeners_.push_back(listener);
    return listener;
  }

  const std::string& name() const { return name_; }

 private:
  friend class Mapping;
  struct Source {
    std::uint64_t id;
    Gpa base;
    std::uint64_t length;
    IoHandler* handler;
    RamRegion* ram;
    std::uint64_t ram_offset;
    bool writable;
    MapOptions options;
  };
  struct Range {
    Gpa base;
    Gpa last;
    std::uint64_t offset;
    std::shared_ptr<const Source> source;
  };
  using Layout = std::vector<Range>;

  Result<Mapping> add(Source source);
  void remove(std::uint64_t id);
  void rebuild();
  void tell_listeners();
  static const Range* look_up(const Layout& layout, Gpa address);
  std::uint64_t read_range(const Range& range, Requester who, Gpa address, unsigned size);
  void write_range(const Range& range, Requester who, Gpa address, std::uint64_t value, unsigned size);

  std::string name_;
  std::uint64_t size_;
  std::mutex mutex_;
  std::uint64_t next_id_ = 1;
  std::vector<std::shared_ptr<const Source>> sources_;
  Snapshot<Layout> layout_;
  std::vector<std::weak_ptr<const std::function<void()>>> listeners_;
};

/// The RAM of an address space, for DMA and loaders: handlers are not reached through it.
class GuestMemory {
 public:
  explicit GuestMemory(AddressSpace& space) : space_(space) {}

  /// Copy between host and guest memory. An error names the first address that is not (writable) RAM; what came before
  /// it has been copied.
  Status read(Gpa address, std::span<std::uint8_t> into) const;
  Status write(Gpa address, std::span<const std::uint8_t> from);
  Status fill(Gpa address, std::uint8_t value, std::uint64_t length);

  /// Little-endian values.
  template <class T>
  Result<T> load(Gpa address) const {
    std::uint8_t raw[sizeof(T)];
    HUSK_TRY(read(address, raw));
    return load_le<T>(raw);
  }
  template <class T>
  Status store(Gpa address, T value) {
    std::uint8_t raw[sizeof(T)];
    store_le<T>(raw, value);
    return write(address, raw);
  }

  /// Direct view of guest RAM, valid while the layout is unchanged. Whoever writes through it must be given
  /// `writable` and call RamRegion::note_write of the target afterwards (pin does so when the pin ends).
  class Pin {
   public:
    Pin(Pin&& other) noexcept
        : ram_(std::exchange(other.ram_, nullptr)), offset_(other.offset_), span_(other.span_), writable_(other.writable_) {}
    Pin& operator=(Pin&&) = delete;
    ~Pin() {
      if (ram_ && writable_) ram_->note_write(offset_, span_.size());
    }
    std::span<std::uint8_t> span() const { return span_; }

   private:
    friend class GuestMemory;
    Pin(RamRegion* ram, std::uint64_t offset, std::span<std::uint8_t> span, bool writable)
        : ram_(ram), offset_(offset), span_(span), writable_(writable) {}
    RamRegion* ram_;
    std::uint64_t offset_;
    std::span<std::uint8_t> span_;
    bool writable_;
  };
  /// Pins the longest run of RAM that starts at `address`, at most `length` bytes; fails if there is none.
  Result<Pin> pin(Gpa address, std::uint64_t length, bool writable);

  AddressSpace& space() { return space_; }

 private:
  AddressSpace& space_;
};

}  // namespace husk::mem
