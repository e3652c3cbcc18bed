// husk: hand-made minimal kernels and guest memory for the loaders' tests and fuzzers
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/bits.h"
#include "boot/boot_image.h"

namespace husk::boot::testing {

using Bytes = std::vector<std::uint8_t>;

/// RAM at 0 as a board lays it out, and above 4 GiB if asked.
struct TestMemory {
  explicit TestMemory(std::uint64_t below, std::uint64_t above = 0) {
    layout.below_4g = below;
    layout.above_4g = above;
    low = mem::RamRegion::create("low", below).value();
    low_mapping = space.map_ram(0, below, *low, 0, true).value();
    if (above != 0) {
      high = mem::RamRegion::create("high", above).value();
      high_mapping = space.map_ram(kFourGiB, above, *high, 0, true).value();
    }
  }
  BootRequest request() const {
    BootRequest r;
    r.layout = layout;
    return r;
  }
  Bytes read(Gpa at, std::size_t length) {
    Bytes out(length);
    if (!memory.read(at, out)) out.clear();
    return out;
  }
  std::string string(Gpa at) {
    std::string out;
    while (out.size() < 4096) {
      const auto c = memory.load<std::uint8_t>(at + out.size());
      if (!c || *c == 0) break;
      out += static_cast<char>(*c);
    }
    return out;
  }
  template <class T>
  T load(Gpa at) {
    return memory.load<T>(at).value();
  }

  mem::AddressSpace space{"test"};
  std::unique_ptr<mem::RamRegion> low, high;
  mem::Mapping low_mapping, high_mapping;
  mem::GuestMemory memory{space};
  MemoryLayout layout;
};

template <class T>
void put(Bytes& bytes, std::size_t at, std::type_identity_t<T> value) {
  if (bytes.size() < at + sizeof(T)) bytes.resize(at + sizeof(T));
  store_le<T>(bytes.data() + at, value);
}
inline void put_bytes(Bytes& bytes, std::size_t at, std::span<const std::uint8_t> data) {
  if (bytes.size() < at + data.size()) bytes.resize(at + data.size());
  std::memcpy(bytes.data() + at, data.data(), data.size());
}

struct ElfOptions {
  bool is_64 = true;
  std::uint16_t machine = 62;
  std::uint64_t paddr = 0x100'0000, vaddr = 0xFFFF'FFFF'8100'0000, entry = 0x100'0000;
  std::uint64_t bss = 0x3000;  ///< bytes behind the file's part
  Bytes code = Bytes(64, 0x90);
  bool pvh_note = false;
  std::uint32_t pvh_entry = 0x100'0010;
};

/// One executable segment, its code at file offset 0x1000; a Xen note if wanted.
inline Bytes make_elf(const ElfOptions& o = {}) {
  Bytes f(0x1000);
  const auto address = [&](std::size_t at, std::uint64_t value) {
    if (o.is_64)
      put<std::uint64_t>(f, at, value);
    else
      put<std::uint32_t>(f, at, static_cast<std::uint32_t>(value));
  };
  put<std::uint32_t>(f, 0, 0x464C457F);
  f[4] = o.is_64 ? 2 : 1;
  f[5] = f[6] = 1;
  put<std::uint16_t>(f, 16, 2);
  put<std::uint16_t>(f, 18, o.machine);
  put<std::uint32_t>(f, 20, 1);
  const std::size_t header = o.is_64 ? 64 : 52, entry_size = o.is_64 ? 56 : 32;
  address(24, o.entry);
  address(o.is_64 ? 32 : 28, header);
  put<std::uint16_t>(f, o.is_64 ? 52 : 40, static_cast<std::uint16_t>(header));
  put<std::uint16_t>(f, o.is_64 ? 54 : 42, static_cast<std::uint16_t>(entry_size));
  put<std::uint16_t>(f, o.is_64 ? 56 : 44, o.pvh_note ? 2 : 1);
  const auto segment = [&](std::size_t at, std::uint32_t type, std::uint64_t offset, std::uint64_t vaddr,
                           std::uint64_t paddr, std::uint64_t file_size, std::uint64_t memory_size) {
    put<std::uint32_t>(f, at, type);
    if (o.is_64) {
      put<std::uint32_t>(f, at + 4, 5);
      for (std::size_t i = 0; i < 5; ++i)
        put<std::uint64_t>(f, at + 8 + i * 8, (std::uint64_t[]){offset, vaddr, paddr, file_size, memory_size}[i]);
      put<std::uint64_t>(f, at + 48, 4);
    } else {
      for (std::size_t i = 0; i < 5; ++i)
        put<std::uint32_t>(
            f, at + 4 + i * 4,
            static_cast<std::uint32_t>((std::uint64_t[]){offset, vaddr, paddr, file_size, memory_size}[i]));
      put<std::uint32_t>(f, at + 24, 5);
      put<std::uint32_t>(f, at + 28, 4);
    }
  };
  segment(header, 1, 0x1000, o.vaddr, o.paddr, o.code.size(), o.code.size() + o.bss);
  if (o.pvh_note) {
    segment(header + entry_size, 4, 0x800, 0, 0, 24, 24);
    put<std::uint32_t>(f, 0x800, 4);
    put<std::uint32_t>(f, 0x804, o.is_64 ? 8 : 4);
    put<std::uint32_t>(f, 0x808, 18);
    put<std::uint32_t>(f, 0x80C, 0x006E6558);  // "Xen"
    put<std::uint32_t>(f, 0x810, o.pvh_entry);
  }
  put_bytes(f, 0x1000, o.code);
  return f;
}

struct BzImageOptions {
  std::uint16_t protocol = 0x020F;
  std::uint16_t xload_flags = 0x3;
  std::uint32_t init_size = 0x10000;
  std::uint64_t preferred_address = 0x100'0000;
  std::uint32_t command_line_max = 2047;
  std::string version = "6.1.0-test (me)";
};

/// Four sectors of setup and a payload at the start of the protected-mode part.
inline Bytes make_bzimage(std::span<const std::uint8_t> payload, const BzImageOptions& o = {}) {
  constexpr std::size_t kSetup = 5 * 512;
  Bytes f(kSetup);
  f[0x1F1] = 4;
  put<std::uint16_t>(f, 0x1FE, 0xAA55);
  f[0x200] = 0xEB;
  f[0x201] = 0x6A;  // header ends at 0x26C
  put<std::uint32_t>(f, 0x202, 0x53726448);
  put<std::uint16_t>(f, 0x206, o.protocol);
  put<std::uint16_t>(f, 0x20E, 0x300 - 0x200);
  std::memcpy(f.data() + 0x300, o.version.c_str(), o.version.size() + 1);
  f[0x211] = 1;
  put<std::uint32_t>(f, 0x214, 0x10'0000);
  put<std::uint32_t>(f, 0x22C, 0x7FFF'FFFF);
  put<std::uint32_t>(f, 0x230, 0x20'0000);
  f[0x234] = 1;
  put<std::uint16_t>(f, 0x236, o.xload_flags);
  put<std::uint32_t>(f, 0x238, o.command_line_max);
  constexpr std::uint32_t kPayloadAt = 0x2C0;
  put<std::uint32_t>(f, 0x248, kPayloadAt);
  put<std::uint32_t>(f, 0x24C, static_cast<std::uint32_t>(payload.size()));
  put<std::uint64_t>(f, 0x258, o.preferred_address);
  put<std::uint32_t>(f, 0x260, o.init_size);
  put_bytes(f, kSetup + kPayloadAt, payload);
  f.resize(align_up<std::size_t>(f.size(), 16));
  put<std::uint32_t>(f, 0x1F4, static_cast<std::uint32_t>((f.size() - kSetup) / 16));
  return f;
}

/// A Multiboot header of 12 bytes, or 32 with address fields.
inline Bytes make_multiboot_header(std::uint32_t flags, std::initializer_list<std::uint32_t> addresses = {}) {
  Bytes h;
  put<std::uint32_t>(h, 0, 0x1BADB002);
  put<std::uint32_t>(h, 4, flags);
  put<std::uint32_t>(h, 8, 0u - 0x1BADB002u - flags);
  for (const std::uint32_t a : addresses) put<std::uint32_t>(h, h.size(), a);
  return h;
}

}  // namespace husk::boot::testing
