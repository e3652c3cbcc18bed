// husk: SMBIOS structures (DMTF DSP0134, version 3.0)
#include "boot/smbios.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/bits.h"
#include "base/check.h"

namespace husk::boot {
namespace {

constexpr std::size_t kEntry64 = 0, kEntry32 = 32, kTable = 64;
constexpr std::size_t kLongestString = 64;
constexpr std::uint16_t kArrayHandle = 0x1000, kNoHandle = 0xFFFF, kNoErrorInformation = 0xFFFE;

/// One structure: a formatted part of known length, then its strings.
class Structure {
 public:
  Structure(std::uint8_t type, std::uint8_t length, std::uint16_t handle) : bytes_(length) {
    put<std::uint8_t>(0, type);
    put<std::uint8_t>(1, length);
    put<std::uint16_t>(2, handle);
  }
  template <class T>
  void put(std::size_t offset, T value) {
    HUSK_CHECK(offset + sizeof(T) <= bytes_.size());
    store_le<T>(bytes_.data() + offset, value);
  }
  /// An empty string is number 0, "not given".
  void text(std::size_t offset, std::string_view what) {
    what = what.substr(0, std::min(what.find('\0'), kLongestString));
    if (what.empty()) return;
    strings_.emplace_back(what);
    put<std::uint8_t>(offset, static_cast<std::uint8_t>(strings_.size()));
  }
  std::vector<std::uint8_t> finish() const {
    std::vector<std::uint8_t> out = bytes_;
    for (const std::string& s : strings_) out.insert(out.end(), s.c_str(), s.c_str() + s.size() + 1);
    if (strings_.empty()) out.push_back(0);
    out.push_back(0);
    return out;
  }
  std::size_t size() const { return finish().size(); }

 private:
  std::vector<std::uint8_t> bytes_;
  std::vector<std::string> strings_;
};

using U8 = std::uint8_t;
using U16 = std::uint16_t;
using U32 = std::uint32_t;
using U64 = std::uint64_t;

Structure bios(const SmbiosConfig& config) {
  Structure s(0, 0x18, 0x0000);
  s.text(0x04, config.manufacturer);
  s.text(0x05, config.bios_version);
  s.put<U16>(0x06, 0xE800);
  s.text(0x08, config.bios_date);
  s.put<U64>(0x0A, 1 << 3);  // characteristics are not supported
  s.put<U8>(0x12, 0x01);     // ACPI
  s.put<U8>(0x13, 0x14);     // targeted content distribution, virtual machine
  s.put<U8>(0x14, 0xFF);     // no version numbers of BIOS
  s.put<U8>(0x15, 0xFF);
  s.put<U8>(0x16, 0xFF);  // or embedded controller
  s.put<U8>(0x17, 0xFF);
  return s;
}

Structure system(const SmbiosConfig& config) {
  Structure s(1, 0x1B, 0x0100);
  s.text(0x04, config.manufacturer);
  s.text(0x05, config.product);
  s.text(0x06, config.version);
  s.text(0x07, config.serial);
  // 7.2.1: since 2.6 the first three fields are little-endian.
  constexpr std::array<std::size_t, 16> kOrder = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};
  for (std::size_t i = 0; i < 16; ++i) s.put<U8>(0x08 + i, config.uuid[kOrder[i]]);
  s.put<U8>(0x18, 6);  // woken by the power switch
  return s;
}

Structure chassis(const SmbiosConfig& config) {
  Structure s(3, 0x16, 0x0300);
  s.text(0x04, config.manufacturer);
  s.put<U8>(0x05, 1);  // type: other
  s.text(0x06, config.version);
  s.text(0x07, config.serial);
  for (const std::size_t state : {0x09u, 0x0Au, 0x0Bu}) s.put<U8>(state, 3);  // safe
  s.put<U8>(0x0C, 2);                                                         // security: unknown
  return s;
}

Structure processor(const SmbiosConfig& config, unsigned number) {
  Structure s(4, 0x30, static_cast<U16>(0x0400 + number));
  s.text(0x04, fmt::format("CPU {}", number));
  s.put<U8>(0x05, 3);  // central processor
  s.put<U8>(0x06, 1);  // family: other
  s.text(0x07, config.processor_manufacturer);
  s.put<U32>(0x08, config.processor_signature);
  s.put<U32>(0x0C, config.processor_features);
  s.text(0x10, config.processor_version);
  s.put<U8>(0x18, 0x41);  // populated, enabled
  s.put<U8>(0x19, 1);     // upgrade: other
  for (const std::size_t cache : {0x1Au, 0x1Cu, 0x1Eu}) s.put<U16>(cache, kNoHandle);
  const U16 cores = config.cores_per_socket;
  const auto threads = static_cast<U16>(std::min<U32>(0xFFFE, U32{cores} * config.threads_per_core));
  const auto narrow = [](U16 count) { return static_cast<U8>(std::min<U16>(count, 0xFF)); };
  s.put<U8>(0x23, narrow(cores));
  s.put<U8>(0x24, narrow(cores));
  s.put<U8>(0x25, narrow(threads));
  s.put<U16>(0x26, 0x04 | (cores > 1 ? 0x08 : 0) | (config.threads_per_core > 1 ? 0x10 : 0));  // 64-bit capable
  s.put<U16>(0x28, 1);
  s.put<U16>(0x2A, cores);
  s.put<U16>(0x2C, cores);
  s.put<U16>(0x2E, threads);
  return s;
}

Structure memory_array(U64 bytes) {
  Structure s(16, 0x17, kArrayHandle);
  s.put<U8>(0x04, 1);  // location: other
  s.put<U8>(0x05, 3);  // system memory
  s.put<U8>(0x06, 3);  // no error correction
  const U64 kilobytes = bytes >> 10;
  s.put<U32>(0x07, kilobytes < 0x8000'0000 ? static_cast<U32>(kilobytes) : 0x8000'0000);
  s.put<U16>(0x0B, kNoErrorInformation);
  s.put<U16>(0x0D, 1);
  if (kilobytes >= 0x8000'0000) s.put<U64>(0x0F, bytes);
  return s;
}

Structure memory_device(const SmbiosConfig& config, U64 bytes) {
  Structure s(17, 0x28, 0x1100);
  s.put<U16>(0x04, kArrayHandle);
  s.put<U16>(0x06, kNoErrorInformation);
  s.put<U16>(0x08, 0xFFFF);  // widths are unknown
  s.put<U16>(0x0A, 0xFFFF);
  const U64 megabytes = bytes >> 20;
  if (megabytes >= 0x7FFF) {
    s.put<U16>(0x0C, 0x7FFF);
    s.put<U32>(0x1C, static_cast<U32>(std::min<U64>(megabytes, 0x7FFF'FFFF)));
  } else {
    s.put<U16>(0x0C, static_cast<U16>(megabytes));
  }
  s.put<U8>(0x0E, 9);  // DIMM
  s.text(0x10, "DIMM 0");
  s.put<U8>(0x12, 7);      // RAM
  s.put<U16>(0x13, 0x02);  // detail: other
  s.text(0x17, config.manufacturer);
  return s;
}

Structure mapped_range(unsigned number, Gpa base, U64 length) {
  Structure s(19, 0x1F, static_cast<U16>(0x1300 + number));
  const U64 first = base >> 10, last = (base + length - 1) >> 10;
  if (last <= 0xFFFF'FFFE) {
    s.put<U32>(0x04, static_cast<U32>(first));
    s.put<U32>(0x08, static_cast<U32>(last));
  } else {
    s.put<U32>(0x04, 0xFFFF'FFFF);
    s.put<U32>(0x08, 0xFFFF'FFFF);
    s.put<U64>(0x0F, base);
    s.put<U64>(0x17, base + length - 1);
  }
  s.put<U16>(0x0C, kArrayHandle);
  s.put<U8>(0x0E, 1);  // partition width
  return s;
}

U8 checksum(const U8* data, std::size_t length) { return static_cast<U8>(-std::accumulate(data, data + length, 0)); }

}  // namespace

SmbiosBlob build_smbios(const SmbiosConfig& config, std::uint64_t base) {
  HUSK_CHECK(base % 16 == 0 && base < kFourGiB);
  const U64 ram = config.ram_below_4g + config.ram_above_4g;
  std::vector<Structure> structures = {bios(config), system(config), chassis(config)};
  for (unsigned i = 0; i < config.sockets; ++i) structures.push_back(processor(config, i));
  structures.push_back(memory_array(ram));
  structures.push_back(memory_device(config, ram));
  unsigned ranges = 0;
  if (config.ram_below_4g) structures.push_back(mapped_range(ranges++, 0, config.ram_below_4g));
  if (config.ram_above_4g) structures.push_back(mapped_range(ranges++, kFourGiB, config.ram_above_4g));
  structures.emplace_back(U8{32}, U8{0x0B}, U16{0x2000});  // boot status 0: no errors
  structures.emplace_back(U8{127}, U8{4}, U16{0x7F00});

  SmbiosBlob blob{base, std::vector<U8>(kTable)};
  std::size_t largest = 0;
  for (const Structure& s : structures) {
    const auto bytes = s.finish();
    largest = std::max(largest, bytes.size());
    blob.bytes.insert(blob.bytes.end(), bytes.begin(), bytes.end());
  }
  const std::size_t length = blob.bytes.size() - kTable;
  HUSK_CHECK(length <= 0xFFFF);

  U8* const e64 = blob.bytes.data() + kEntry64;  // 5.2.2
  std::memcpy(e64, "_SM3_", 5);
  e64[6] = 24;
  e64[7] = 3;  // version 3.0.0
  e64[10] = 1;
  store_le<U32>(e64 + 12, static_cast<U32>(length));
  store_le<U64>(e64 + 16, base + kTable);
  e64[5] = checksum(e64, 24);

  U8* const e32 = blob.bytes.data() + kEntry32;  // 5.2.1
  std::memcpy(e32, "_SM_", 4);
  e32[5] = 31;
  e32[6] = 2;  // version 2.8
  e32[7] = 8;
  store_le<U16>(e32 + 8, static_cast<U16>(largest));
  std::memcpy(e32 + 16, "_DMI_", 5);
  store_le<U16>(e32 + 22, static_cast<U16>(length));
  store_le<U32>(e32 + 24, static_cast<U32>(base + kTable));
  store_le<U16>(e32 + 28, static_cast<U16>(structures.size()));
  e32[30] = 0x28;  // BCD revision
  e32[21] = checksum(e32 + 16, 15);
  e32[4] = checksum(e32, 31);
  return blob;
}

}  // namespace husk::boot
