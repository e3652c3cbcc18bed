// husk: address spaces and guest memory
#include "mem/address_space.h"

#include <algorithm>
#include <set>

#include "base/bits.h"

namespace husk::mem {

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    reset();
    space_ = std::exchange(other.space_, nullptr);
    id_ = other.id_;
  }
  return *this;
}

void Mapping::reset() {
  if (space_) std::exchange(space_, nullptr)->remove(id_);
}

AddressSpace::AddressSpace(std::string name, std::uint64_t size)
    : name_(std::move(name)), size_(size), layout_(std::make_unique<const Layout>()) {}

AddressSpace::~AddressSpace() = default;

Result<Mapping> AddressSpace::map(Gpa base, std::uint64_t length, IoHandler& handler, MapOptions options) {
  return add({0, base, length, &handler, nullptr, 0, false, std::move(options)});
}

Result<Mapping> AddressSpace::map_ram(Gpa base, std::uint64_t length, RamRegion& ram, std::uint64_t offset, bool writable,
                                      int priority) {
  if ((base | length | offset) % kPageSize != 0 || !range_within(offset, length, ram.size()))
    return fail("cannot map {:#x} bytes of {} from offset {:#x} at {:#x}: not whole pages of it", length, ram.name(),
                offset, base);
  MapOptions options;
  options.priority = priority;
  options.name = ram.name();
  return add({0, base, length, nullptr, &ram, offset, writable, std::move(options)});
}

Result<Mapping> AddressSpace::add(Source source) {
  if (source.length == 0 || !range_within(source.base, source.length, size_))
    return fail("cannot map {} at {:#x}, {:#x} bytes: outside {} space", source.options.name, source.base, source.length,
                name_);
  std::uint64_t id = 0;
  {
    const std::lock_guard lock(mutex_);
    id = source.id = next_id_++;
    sources_.push_back(std::make_shared<const Source>(std::move(source)));
    rebuild();
  }
  tell_listeners();
  return Mapping(this, id);
}

void AddressSpace::remove(std::uint64_t id) {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(sources_, [&](const auto& s) { return s->id == id; });
    rebuild();
  }
  tell_listeners();
}

void AddressSpace::tell_listeners() {
  for (const auto& weak : listeners_)
    if (const auto listener = weak.lock()) (*listener)();
}

void AddressSpace::rebuild() {
  std::set<Gpa> edges;
  for (const auto& s : sources_) {
    edges.insert(s->base);
    edges.insert(s->base + s->length);
  }
  auto layout = std::make_unique<Layout>();
  for (auto edge = edges.begin(); edge != edges.end() && std::next(edge) != edges.end(); ++edge) {
    const Gpa base = *edge;
    const Gpa last = *std::next(edge) - 1;
    std::shared_ptr<const Source> best;
    for (const auto& s : sources_)
      if (s->base <= base && last <= s->base + s->length - 1 && (!best || s->options.priority >= best->options.priority))
        best = s;
    if (!best) continue;
    const std::uint64_t offset = base - best->base;
    if (!layout->empty() && layout->back().source == best && layout->back().last + 1 == base) layout->back().last = last;
    else layout->push_back({base, last, offset, std::move(best)});
  }
  layout_.update([&](const Layout&) { return std::move(layout); });
}

const AddressSpace::Range* AddressSpace::look_up(const Layout& layout, Gpa address) {
  auto above = std::upper_bound(layout.begin(), layout.end(), address,
                                [](Gpa a, const Range& range) { return a < range.base; });
  if (above == layout.begin()) return nullptr;
  --above;
  return address <= above->last ? &*above : nullptr;
}

Target AddressSpace::find(Gpa address) const {
  const Snapshot<Layout>::Reader layout(layout_);
  const Range* range = look_up(*layout, address);
  if (!range) return {};
  const Source& source = *range->source;
  const std::uint64_t offset = range->offset + (address - range->base);
  return {source.handler, source.ram, source.writable, source.ram ? source.ram_offset + offset : offset,
          range->last - address + 1};
}

std::uint64_t AddressSpace::read_range(const Range& range, Requester who, Gpa address, unsigned size) {
  const Source& source = *range.source;
  const std::uint64_t offset = range.offset + (address - range.base);
  if (source.ram) {
    std::uint8_t raw[8] = {};
    std::memcpy(raw, source.ram->data() + source.ram_offset + offset, size);
    return load_le<std::uint64_t>(raw);
  }
  const DomainGuard guard(source.options.domain);
  std::uint64_t value = 0;
  for (unsigned done = 0; done < size;) {
    const unsigned piece = std::min<unsigned>(size - done, source.options.max_size);
    const std::uint64_t part = source.handler->read({who, offset + done, static_cast<std::uint8_t>(piece)});
    value |= (part & mask_of(piece * 8)) << (done * 8);
    done += piece;
  }
  return value;
}

void AddressSpace::write_range(const Range& range, Requester who, Gpa address, std::uint64_t value, unsigned size) {
  const Source& source = *range.source;
  const std::uint64_t offset = range.offset + (address - range.base);
  if (source.ram) {
    if (!source.writable) return;
    std::uint8_t raw[8];
    store_le<std::uint64_t>(raw, value);
    std::memcpy(source.ram->data() + source.ram_offset + offset, raw, size);
    source.ram->note_write(source.ram_offset + offset, size);
    return;
  }
  const DomainGuard guard(source.options.domain);
  for (unsigned done = 0; done < size;) {
    const unsigned piece = std::min<unsigned>(size - done, source.options.max_size);
    source.handler->write({who, offset + done, static_cast<std::uint8_t>(piece)}, (value >> (done * 8)) & mask_of(piece * 8));
    done += piece;
  }
}

std::uint64_t AddressSpace::read(Requester who, Gpa address, unsigned size) {
  const Snapshot<Layout>::Reader layout(layout_);
  const Range* range = look_up(*layout, address);
  if (range && range->last - address >= size - 1) return read_range(*range, who, address, size);
  std::uint64_t value = 0;
  for (unsigned i = 0; i < size; ++i) {
    const Range* piece = look_up(*layout, address + i);
    value |= (piece ? read_range(*piece, who, address + i, 1) : 0xFF) << (i * 8);
  }
  return value;
}

void AddressSpace::write(Requester who, Gpa address, std::uint64_t value, unsigned size) {
  const Snapshot<Layout>::Reader layout(layout_);
  const Range* range = look_up(*layout, address);
  if (range && range->last - address >= size - 1) {
    write_range(*range, who, address, value & mask_of(size * 8), size);
    return;
  }
  for (unsigned i = 0; i < size; ++i)
    if (const Range* piece = look_up(*layout, address + i)) write_range(*piece, who, address + i, (value >> (i * 8)) & 0xFF, 1);
}

void AddressSpace::enumerate(
    const std::function<void(Gpa, std::uint64_t, const std::string&, const Target&)>& each) const {
  const Snapshot<Layout>::Reader layout(layout_);
  for (const Range& range : *layout)
    each(range.base, range.last - range.base + 1, range.source->options.name, find(range.base));
}

namespace {
/// Calls `visit(region, offset, done, count)` for each run of RAM in [address, address+length).
template <class Visit>
Status for_each_run(const AddressSpace& space, Gpa address, std::uint64_t length, bool writing, Visit&& visit) {
  for (std::uint64_t done = 0; done < length;) {
    const Target target = space.find(address + done);
    if (!target.ram || (writing && !target.writable))
      return fail("guest-physical address {:#x} is not {}RAM", address + done, writing ? "writable " : "");
    const std::uint64_t count = std::min(length - done, target.length);
    visit(*target.ram, target.offset, done, count);
    done += count;
  }
  return {};
}
}  // namespace

Status GuestMemory::read(Gpa address, std::span<std::uint8_t> into) const {
  return for_each_run(space_, address, into.size(), false,
                      [&](RamRegion& ram, std::uint64_t offset, std::uint64_t done, std::uint64_t count) {
                        std::memcpy(into.data() + done, ram.data() + offset, count);
                      });
}

Status GuestMemory::write(Gpa address, std::span<const std::uint8_t> from) {
  return for_each_run(space_, address, from.size(), true,
                      [&](RamRegion& ram, std::uint64_t offset, std::uint64_t done, std::uint64_t count) {
                        std::memcpy(ram.data() + offset, from.data() + done, count);
                        ram.note_write(offset, count);
                      });
}

Status GuestMemory::fill(Gpa address, std::uint8_t value, std::uint64_t length) {
  return for_each_run(space_, address, length, true,
                      [&](RamRegion& ram, std::uint64_t offset, std::uint64_t, std::uint64_t count) {
                        std::memset(ram.data() + offset, value, count);
                        ram.note_write(offset, count);
                      });
}

Result<GuestMemory::Pin> GuestMemory::pin(Gpa address, std::uint64_t length, bool writable) {
  const Target target = space_.find(address);
  if (!target.ram || (writable && !target.writable))
    return fail("guest-physical address {:#x} is not {}RAM", address, writable ? "writable " : "");
  return Pin(target.ram, target.offset, {target.ram->data() + target.offset, std::min(length, target.length)}, writable);
}

}  // namespace husk::mem
