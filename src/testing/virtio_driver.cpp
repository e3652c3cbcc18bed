// husk: the driver's side of a virtio device over MMIO
#include "testing/virtio_driver.h"

#include "base/bits.h"

namespace husk::testing {

namespace {
constexpr std::uint16_t kNext = 1, kWrite = 2, kIndirectFlag = 4;
constexpr std::uint16_t kAvailable = 1 << 7, kUsed = 1 << 15;
}  // namespace

mem::Gpa VirtioDriver::take(std::uint64_t length, std::uint64_t alignment) {
  const mem::Gpa at = align_up(free_, alignment);
  HUSK_CHECK(at + length <= end_);
  free_ = at + length;
  return at;
}

bool VirtioDriver::negotiate(std::uint64_t wanted) {
  write(0x70, 0);
  HUSK_CHECK(status() == 0);
  free_ = ram_;
  rings_.clear();
  write(0x70, 1);
  write(0x70, 3);
  features_ = offered() & wanted;
  for (unsigned half = 0; half < 2; ++half) {
    write(0x24, half);
    write(0x20, (features_ >> (half * 32)) & 0xFFFFFFFF);
  }
  write(0x70, 11);
  return status() & 8;
}

void VirtioDriver::add_queue(unsigned index, unsigned size) {
  Ring ring;
  write(0x30, index);
  ring.size = std::min(size, read(0x34));
  const bool packed = features_ & kPacked;
  ring.descriptors = take(ring.size * 16, 16);
  ring.driver = take(packed ? 4 : 6 + ring.size * 2, 4);
  ring.device = take(packed ? 4 : 6 + ring.size * 8, 4);
  HUSK_CHECK(machine_.memory.fill(ring.descriptors, 0, free_ - ring.descriptors).has_value());
  for (unsigned i = ring.size; i-- > 0;) ring.free.push_back(static_cast<std::uint16_t>(i));
  write(0x38, ring.size);
  const std::pair<unsigned, mem::Gpa> areas[] = {{0x80, ring.descriptors}, {0x90, ring.driver}, {0xA0, ring.device}};
  for (const auto& [offset, address] : areas) {
    write(offset, address & 0xFFFFFFFF);
    write(offset + 4, address >> 32);
  }
  write(0x44, 1);
  rings_[index] = ring;
  buffers_ = free_;
}

bool VirtioDriver::begin(std::uint64_t wanted, unsigned queues, unsigned size) {
  if (!negotiate(wanted)) return false;
  for (unsigned i = 0; i < queues; ++i) add_queue(i, size);
  start();
  return true;
}

mem::Gpa VirtioDriver::place(std::span<const std::uint8_t> bytes) {
  const mem::Gpa at = take(bytes.size(), 16);
  HUSK_CHECK(machine_.memory.write(at, bytes).has_value());
  return at;
}

mem::Gpa VirtioDriver::room(std::uint32_t length) {
  const mem::Gpa at = take(length, 16);
  HUSK_CHECK(machine_.memory.fill(at, 0, length).has_value());
  return at;
}

mem::Gpa VirtioDriver::write_table(std::span<const Part> parts, bool packed) {
  std::vector<std::uint8_t> table(parts.size() * 16);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    std::uint8_t* const d = &table[i * 16];
    store_le<std::uint64_t>(d, parts[i].address);
    store_le<std::uint32_t>(d + 8, parts[i].length);
    const auto write_flag = static_cast<std::uint16_t>(parts[i].writable ? kWrite : 0);
    if (packed) {
      store_le<std::uint16_t>(d + 14, write_flag);
    } else {
      store_le<std::uint16_t>(d + 12, static_cast<std::uint16_t>(write_flag | (i + 1 < parts.size() ? kNext : 0)));
      store_le<std::uint16_t>(d + 14, static_cast<std::uint16_t>(i + 1));
    }
  }
  return place(table);
}

std::uint16_t VirtioDriver::add_split(Ring& ring, std::span<const Part> parts, bool indirect) {
  Part table{};
  if (indirect) {
    table = {write_table(parts, false), static_cast<std::uint32_t>(parts.size() * 16), false};
    parts = {&table, 1};
  }
  std::vector<std::uint16_t> chain;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    HUSK_CHECK(!ring.free.empty());
    chain.push_back(ring.free.back());
    ring.free.pop_back();
  }
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const mem::Gpa at = ring.descriptors + chain[i] * 16u;
    const bool last = i + 1 == parts.size();
    const auto flags = static_cast<std::uint16_t>((parts[i].writable ? kWrite : 0) | (last ? 0 : kNext) |
                                                  (indirect ? kIndirectFlag : 0));
    (void)machine_.memory.store<std::uint64_t>(at, parts[i].address);
    (void)machine_.memory.store<std::uint32_t>(at + 8, parts[i].length);
    (void)machine_.memory.store<std::uint16_t>(at + 12, flags);
    (void)machine_.memory.store<std::uint16_t>(at + 14, last ? std::uint16_t{0} : chain[i + 1]);
  }
  (void)machine_.memory.store<std::uint16_t>(ring.driver + 4 + ring.next % ring.size * 2, chain[0]);
  (void)machine_.memory.store<std::uint16_t>(ring.driver + 2, ++ring.next);
  ring.chains[chain[0]] = chain;
  return chain[0];
}

std::uint16_t VirtioDriver::add_packed(Ring& ring, std::span<const Part> parts, bool indirect) {
  Part table{};
  if (indirect) {
    table = {write_table(parts, true), static_cast<std::uint32_t>(parts.size() * 16), false};
    parts = {&table, 1};
  }
  HUSK_CHECK(!ring.free.empty());
  const std::uint16_t id = ring.free.back();
  ring.free.pop_back();
  const mem::Gpa first = ring.descriptors + ring.next * 16u;
  std::uint16_t first_flags = 0;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const mem::Gpa at = ring.descriptors + ring.next * 16u;
    const auto flags =
        static_cast<std::uint16_t>((parts[i].writable ? kWrite : 0) | (i + 1 < parts.size() ? kNext : 0) |
                                   (indirect ? kIndirectFlag : 0) | (ring.wrap ? kAvailable : kUsed));
    (void)machine_.memory.store<std::uint64_t>(at, parts[i].address);
    (void)machine_.memory.store<std::uint32_t>(at + 8, parts[i].length);
    (void)machine_.memory.store<std::uint16_t>(at + 12, id);
    if (i == 0)
      first_flags = flags;
    else
      (void)machine_.memory.store<std::uint16_t>(at + 14, flags);
    if (++ring.next == ring.size) {
      ring.next = 0;
      ring.wrap = !ring.wrap;
    }
  }
  (void)machine_.memory.store<std::uint16_t>(first + 14, first_flags);
  ring.slots[id] = static_cast<std::uint16_t>(parts.size());
  return id;
}

std::uint16_t VirtioDriver::add(unsigned queue, std::span<const Part> parts, bool indirect) {
  Ring& ring = rings_[queue];
  return (features_ & kPacked) ? add_packed(ring, parts, indirect) : add_split(ring, parts, indirect);
}

std::optional<VirtioDriver::Used> VirtioDriver::used(unsigned queue) {
  Ring& ring = rings_[queue];
  if (features_ & kPacked) {
    const mem::Gpa at = ring.descriptors + ring.last_used * 16u;
    const auto flags = machine_.memory.load<std::uint16_t>(at + 14).value();
    if (bool(flags & kUsed) != ring.used_wrap || bool(flags & kAvailable) != ring.used_wrap) return std::nullopt;
    const Used found{machine_.memory.load<std::uint16_t>(at + 12).value(),
                     machine_.memory.load<std::uint32_t>(at + 8).value()};
    const unsigned next = ring.last_used + std::max<unsigned>(1, ring.slots[found.id]);
    if (next >= ring.size) ring.used_wrap = !ring.used_wrap;
    ring.last_used = static_cast<std::uint16_t>(next % ring.size);
    ring.free.push_back(found.id);
    return found;
  }
  if (machine_.memory.load<std::uint16_t>(ring.device + 2).value() == ring.last_used) return std::nullopt;
  const mem::Gpa at = ring.device + 4 + ring.last_used++ % ring.size * 8;
  const Used found{static_cast<std::uint16_t>(machine_.memory.load<std::uint32_t>(at).value()),
                   machine_.memory.load<std::uint32_t>(at + 4).value()};
  for (const std::uint16_t descriptor : ring.chains[found.id]) ring.free.push_back(descriptor);
  ring.chains.erase(found.id);
  return found;
}

std::optional<std::vector<std::uint8_t>> VirtioDriver::request(unsigned queue, std::span<const std::uint8_t> out,
                                                               std::uint32_t in_bytes) {
  recycle();
  std::vector<Part> parts;
  if (!out.empty()) parts.push_back({place(out), static_cast<std::uint32_t>(out.size()), false});
  const mem::Gpa in = in_bytes ? room(in_bytes) : 0;
  if (in_bytes) parts.push_back({in, in_bytes, true});
  add(queue, parts);
  kick(queue);
  const auto done = used(queue);
  if (!done) return std::nullopt;
  return bytes_at(in, std::min(done->length, in_bytes));
}

std::vector<std::uint8_t> VirtioDriver::bytes_at(mem::Gpa address, std::uint64_t length) {
  std::vector<std::uint8_t> bytes(length);
  HUSK_CHECK(machine_.memory.read(address, bytes).has_value());
  return bytes;
}

}  // namespace husk::testing
