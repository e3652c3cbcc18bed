// husk: qcow2's structures on disk (QEMU's docs/interop/qcow2.txt): header, extensions, table entries, snapshot table
#include "block/qcow2_format.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/bits.h"

namespace husk::block::qcow2 {
namespace {

constexpr std::size_t kHeaderV2 = 72;
constexpr std::size_t kHeaderV3 = 104;
constexpr std::size_t kHeaderKnown = 112;  // with the compression type

struct FeatureName {
  std::uint8_t kind, bit;
  const char* name;
};
// Written to each image as QEMU does, so that a program that lacks one can say which.
constexpr FeatureName kFeatureNames[] = {
    {0, 0, "dirty bit"},        {0, 1, "corrupt bit"},         {0, 2, "external data file"},
    {0, 3, "compression type"}, {0, 4, "extended L2 entries"}, {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},          {2, 1, "raw external data"},
};

void put_extension(std::vector<std::uint8_t>& out, std::uint32_t type, std::span<const std::uint8_t> data) {
  const std::size_t at = out.size();
  out.resize(at + 8 + align_up<std::size_t>(data.size(), 8));
  store_be<std::uint32_t>(&out[at], type);
  store_be<std::uint32_t>(&out[at + 4], static_cast<std::uint32_t>(data.size()));
  if (!data.empty()) std::memcpy(&out[at + 8], data.data(), data.size());
}

std::span<const std::uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string unknown_features(std::uint64_t unknown, std::span<const std::uint8_t> names) {
  std::string text;
  for (unsigned n = 0; n < 64; ++n) {
    if (!bit(unknown, n)) continue;
    std::string name = fmt::format("bit {}", n);
    for (std::size_t at = 0; at + 48 <= names.size(); at += 48) {
      if (names[at] != 0 || names[at + 1] != n) continue;
      const char* from = reinterpret_cast<const char*>(&names[at + 2]);
      std::string given(from, ::strnlen(from, 46));
      std::erase_if(given, [](char c) { return c < ' ' || c > '~'; });
      name += fmt::format(" ('{}')", given);
    }
    text += (text.empty() ? "" : ", ") + name;
  }
  return text;
}

Status parse_extensions(Header& header, std::span<const std::uint8_t> start, std::size_t end,
                        std::span<const std::uint8_t>& feature_names) {
  std::size_t at = header.header_length;
  while (at + 8 <= end) {
    const auto type = load_be<std::uint32_t>(&start[at]);
    const auto length = load_be<std::uint32_t>(&start[at + 4]);
    at += 8;
    if (type == 0) return {};
    if (length > end - at) return fail("header extension {:#x} of {} bytes reaches out of its cluster", type, length);
    const auto data = start.subspan(at, length);
    at += std::min<std::size_t>(align_up<std::size_t>(length, 8), end - at);
    const auto text = [&] { return std::string(reinterpret_cast<const char*>(data.data()), data.size()); };
    if (type == kExtensionBackingFormat) {
      if (length >= 16) return fail("the backing format's name has {} bytes; 15 are allowed", length);
      header.backing_format = text();
    } else if (type == kExtensionDataFile) {
      if (length >= 4096) return fail("the data file's name has {} bytes", length);
      header.data_file = text();
    } else if (type == kExtensionFeatureNames) {
      feature_names = data;
    } else {
      header.extensions.push_back({type, {data.begin(), data.end()}});
    }
  }
  return {};
}

}  // namespace

Header::CompressedPlace Header::compressed_place(std::uint64_t entry) const {
  const unsigned offset_bits = 62 - (cluster_bits - 8);
  const std::uint64_t offset = entry & mask_of(offset_bits);
  const std::uint64_t sectors = bits(entry, offset_bits, cluster_bits - 8) + 1;
  return {offset, sectors * 512 - (offset & 511)};
}

std::uint64_t Header::compressed_entry(std::uint64_t offset, std::uint64_t length) const {
  const unsigned offset_bits = 62 - (cluster_bits - 8);
  const std::uint64_t sectors_behind = ((offset + length - 1) >> 9) - (offset >> 9);
  return kCompressed | offset | sectors_behind << offset_bits;
}

Result<Header> parse_header(std::span<const std::uint8_t> start, const std::string& name) {
  const auto bad = [&]<class... Args>(fmt::format_string<Args...> format, Args&&... args) {
    return fail("'{}' is not a valid qcow2 image: {}", name, fmt::format(format, std::forward<Args>(args)...));
  };
  if (start.size() < kHeaderV2 || load_be<std::uint32_t>(&start[0]) != kMagic)
    return fail("'{}' is not a qcow2 image", name);
  const auto u32 = [&](std::size_t at) { return load_be<std::uint32_t>(&start[at]); };
  const auto u64 = [&](std::size_t at) { return load_be<std::uint64_t>(&start[at]); };
  Header h;
  h.version = u32(4);
  if (h.version != 2 && h.version != 3) return fail("'{}' is of qcow version {}; husk has 2 and 3", name, h.version);
  h.backing_offset = u64(8);
  const std::uint32_t backing_length = u32(16);
  h.cluster_bits = u32(20);
  h.size = u64(24);
  h.crypt_method = u32(32);
  h.l1_size = u32(36);
  h.l1_offset = u64(40);
  h.refcount_table_offset = u64(48);
  h.refcount_table_clusters = u32(56);
  h.snapshot_count = u32(60);
  h.snapshots_offset = u64(64);
  if (h.cluster_bits < kLeastClusterBits || h.cluster_bits > kMostClusterBits)
    return bad("clusters of 2^{} bytes; 2^9 to 2^21 are possible", h.cluster_bits);
  h.header_length = kHeaderV2;
  if (h.version == 3) {
    if (start.size() < kHeaderV3) return bad("the header is cut off");
    h.incompatible = u64(72);
    h.compatible = u64(80);
    h.autoclear = u64(88);
    h.refcount_order = u32(96);
    h.header_length = u32(100);
    if (h.header_length < kHeaderV3 || h.header_length % 8 != 0 || h.header_length > h.cluster_size() ||
        h.header_length > start.size())
      return bad("the header's length is {}", h.header_length);
    if (h.header_length > kHeaderV3) {
      if (start[104] > 1) return bad("compression type {}; husk has 0 (zlib) and 1 (zstd)", start[104]);
      h.compression = static_cast<Compression>(start[104]);
    }
    if (h.header_length > kHeaderKnown) h.further.assign(start.begin() + kHeaderKnown, start.begin() + h.header_length);
  }
  const std::uint64_t cluster = h.cluster_size();
  const std::size_t first_cluster = std::min<std::size_t>(start.size(), cluster);
  const std::size_t extensions_end =
      h.backing_offset != 0 && h.backing_offset < first_cluster ? h.backing_offset : first_cluster;
  std::span<const std::uint8_t> feature_names;
  if (auto parsed = parse_extensions(h, start, extensions_end, feature_names); !parsed)
    return std::unexpected(std::move(parsed).error().within(fmt::format("'{}' is not a valid qcow2 image", name)));
  constexpr std::uint64_t kKnown = kDirty | kCorrupt | kExternalData | kCompressionType | kExtendedL2;
  if (h.incompatible & ~kKnown)
    return fail("'{}' uses qcow2 features that husk lacks: {}", name,
                unknown_features(h.incompatible & ~kKnown, feature_names));
  if (h.crypt_method != 0) {
    const char* method = h.crypt_method == 1   ? "AES (legacy qcow2 encryption)"
                         : h.crypt_method == 2 ? "LUKS"
                                               : "unknown";
    return std::unexpected(
        Error{fmt::format("'{}' is encrypted (method {}: {}), which husk lacks", name, h.crypt_method, method),
              "decrypt it with 'qemu-img convert' first"});
  }
  if ((h.compression != Compression::zlib) != ((h.incompatible & kCompressionType) != 0))
    return bad("compression type {} and its feature bit disagree", static_cast<unsigned>(h.compression));
  if (h.refcount_order > 6) return bad("refcounts of 2^{} bits; 2^6 are the most", h.refcount_order);
  if (h.extended_l2() && h.cluster_bits < 14) return bad("extended L2 entries with clusters of {} bytes", cluster);
  const auto aligned = [&](std::uint64_t offset) {
    return (offset & (cluster - 1)) == 0 && offset <= INT64_MAX - cluster;
  };
  if (std::uint64_t{h.l1_size} * 8 > kMostL1Bytes) return bad("an L1 table of {} entries", h.l1_size);
  if (!aligned(h.l1_offset)) return bad("the L1 table is at {:#x}", h.l1_offset);
  if (h.l1_size == 0 ? h.size != 0 : h.l1_offset == 0) return bad("the disk has no L1 table");
  if (h.size > INT64_MAX || h.l1_needed(h.size) > h.l1_size)
    return bad("its L1 table of {} entries is too small for a disk of {} bytes", h.l1_size, h.size);
  if (!aligned(h.refcount_table_offset) || h.refcount_table_offset == 0)
    return bad("the refcount table is at {:#x}", h.refcount_table_offset);
  if (h.refcount_table_clusters == 0 ||
      h.refcount_table_clusters * cluster > std::max(kMostRefcountTableBytes, cluster))
    return bad("a refcount table of {} clusters", h.refcount_table_clusters);
  if (h.snapshot_count > kMostSnapshots) return bad("{} snapshots; {} are the most", h.snapshot_count, kMostSnapshots);
  if (!aligned(h.snapshots_offset) || (h.snapshot_count > 0 && h.snapshots_offset == 0))
    return bad("the snapshot table is at {:#x}", h.snapshots_offset);
  if (h.backing_offset != 0) {
    if (backing_length > 1023) return bad("the backing file's name has {} bytes; 1023 are allowed", backing_length);
    if (!range_within(h.backing_offset, backing_length, first_cluster))
      return bad("the backing file's name at {:#x} is outside the first cluster", h.backing_offset);
    h.backing_file.assign(reinterpret_cast<const char*>(&start[h.backing_offset]), backing_length);
    if (h.backing_file.find('\0') != std::string::npos) return bad("the backing file's name has a NUL");
  }
  if (h.external_data() && h.version < 3) return bad("an external data file in version 2");
  return h;
}

Result<std::vector<std::uint8_t>> serialize_header(Header& h) {
  std::vector<std::uint8_t> out;
  if (h.version == 2)
    h.header_length = kHeaderV2;
  else
    h.header_length = static_cast<std::uint32_t>(kHeaderKnown + h.further.size());
  out.resize(h.header_length);
  if (h.version == 3) {
    store_be(&out[72], h.incompatible);
    store_be(&out[80], h.compatible);
    store_be(&out[88], h.autoclear);
    store_be(&out[96], h.refcount_order);
    store_be(&out[100], h.header_length);
    out[104] = static_cast<std::uint8_t>(h.compression);
    std::copy(h.further.begin(), h.further.end(), out.begin() + kHeaderKnown);
  }
  if (!h.backing_format.empty()) put_extension(out, kExtensionBackingFormat, bytes_of(h.backing_format));
  if (!h.data_file.empty()) put_extension(out, kExtensionDataFile, bytes_of(h.data_file));
  for (const Extension& extension : h.extensions) put_extension(out, extension.type, extension.data);
  if (h.version == 3) {
    std::vector<std::uint8_t> names(std::size(kFeatureNames) * 48);
    for (std::size_t i = 0; i < std::size(kFeatureNames); ++i) {
      names[i * 48] = kFeatureNames[i].kind;
      names[i * 48 + 1] = kFeatureNames[i].bit;
      std::memcpy(&names[i * 48 + 2], kFeatureNames[i].name, std::strlen(kFeatureNames[i].name));
    }
    // The names are a courtesy: with clusters of 512 bytes they would crowd out the backing file's name.
    if (out.size() + 8 + names.size() + 8 + h.backing_file.size() <= h.cluster_size())
      put_extension(out, kExtensionFeatureNames, names);
  }
  put_extension(out, 0, {});
  h.backing_offset = h.backing_file.empty() ? 0 : out.size();
  out.insert(out.end(), h.backing_file.begin(), h.backing_file.end());
  if (out.size() > h.cluster_size() || h.backing_file.size() > 1023)
    return fail(
        "the names of the backing file ({} bytes) and the data file do not fit into a header cluster of {} bytes",
        h.backing_file.size(), h.cluster_size());
  store_be(&out[0], kMagic);
  store_be(&out[4], h.version);
  store_be(&out[8], h.backing_offset);
  store_be(&out[16], static_cast<std::uint32_t>(h.backing_file.size()));
  store_be(&out[20], h.cluster_bits);
  store_be(&out[24], h.size);
  store_be(&out[32], h.crypt_method);
  store_be(&out[36], h.l1_size);
  store_be(&out[40], h.l1_offset);
  store_be(&out[48], h.refcount_table_offset);
  store_be(&out[56], h.refcount_table_clusters);
  store_be(&out[60], h.snapshot_count);
  store_be(&out[64], h.snapshots_offset);
  out.resize(h.cluster_size());
  return out;
}

Result<std::vector<Snapshot>> parse_snapshots(const Header& header, std::span<const std::uint8_t> table,
                                              std::uint64_t& consumed) {
  std::vector<Snapshot> list;
  std::size_t at = 0;
  for (std::uint32_t i = 0; i < header.snapshot_count; ++i) {
    if (table.size() - at < 40)
      return fail("the snapshot table ends within snapshot {} of {}", i + 1, header.snapshot_count);
    const std::uint8_t* p = &table[at];
    Snapshot s;
    s.l1_offset = load_be<std::uint64_t>(p);
    s.l1_size = load_be<std::uint32_t>(p + 8);
    const std::size_t id_length = load_be<std::uint16_t>(p + 12);
    const std::size_t name_length = load_be<std::uint16_t>(p + 14);
    s.seconds = load_be<std::uint32_t>(p + 16);
    s.nanoseconds = load_be<std::uint32_t>(p + 20);
    s.vm_clock = load_be<std::uint64_t>(p + 24);
    s.vm_state_size = load_be<std::uint32_t>(p + 32);
    const std::size_t extra = load_be<std::uint32_t>(p + 36);
    if (extra > 1024) return fail("snapshot {} has {} bytes of extra data; 1024 are allowed", i + 1, extra);
    const std::size_t length = 40 + extra + id_length + name_length;
    if (table.size() - at < length)
      return fail("the snapshot table ends within snapshot {} of {}", i + 1, header.snapshot_count);
    if (extra >= 8) s.vm_state_size = load_be<std::uint64_t>(p + 40);
    s.disk_size = extra >= 16 ? load_be<std::uint64_t>(p + 48) : header.size;
    if (extra >= 24) s.instruction_count = load_be<std::uint64_t>(p + 56);
    if (extra > 24) s.further.assign(p + 64, p + 40 + extra);
    s.id.assign(reinterpret_cast<const char*>(p + 40 + extra), id_length);
    s.name.assign(reinterpret_cast<const char*>(p + 40 + extra + id_length), name_length);
    if (std::uint64_t{s.l1_size} * 8 > kMostL1Bytes)
      return fail("snapshot '{}' has an L1 table of {} entries", s.name, s.l1_size);
    if ((s.l1_offset & (header.cluster_size() - 1)) != 0 || s.l1_offset > INT64_MAX)
      return fail("the L1 table of snapshot '{}' is at {:#x}", s.name, s.l1_offset);
    if (s.disk_size > INT64_MAX || header.l1_needed(s.disk_size) > s.l1_size)
      return fail("snapshot '{}' has too small an L1 table for its {} bytes", s.name, s.disk_size);
    list.push_back(std::move(s));
    at = std::min(table.size(), align_up<std::size_t>(at + length, 8));
  }
  consumed = at;
  return list;
}

std::vector<std::uint8_t> serialize_snapshots(const std::vector<Snapshot>& snapshots) {
  std::vector<std::uint8_t> out;
  for (const Snapshot& s : snapshots) {
    const std::size_t extra = 24 + s.further.size();
    const std::size_t at = out.size();
    out.resize(at + 40 + extra);
    std::uint8_t* p = &out[at];
    store_be(p, s.l1_offset);
    store_be(p + 8, s.l1_size);
    store_be(p + 12, static_cast<std::uint16_t>(s.id.size()));
    store_be(p + 14, static_cast<std::uint16_t>(s.name.size()));
    store_be(p + 16, s.seconds);
    store_be(p + 20, s.nanoseconds);
    store_be(p + 24, s.vm_clock);
    store_be(p + 32, static_cast<std::uint32_t>(std::min<std::uint64_t>(s.vm_state_size, UINT32_MAX)));
    store_be(p + 36, static_cast<std::uint32_t>(extra));
    store_be(p + 40, s.vm_state_size);
    store_be(p + 48, s.disk_size);
    store_be(p + 56, s.instruction_count);
    if (!s.further.empty()) std::memcpy(p + 64, s.further.data(), s.further.size());
    out.insert(out.end(), s.id.begin(), s.id.end());
    out.insert(out.end(), s.name.begin(), s.name.end());
    out.resize(align_up<std::size_t>(out.size(), 8));
  }
  return out;
}

std::uint64_t get_refcount(const std::uint8_t* block, std::uint64_t index, unsigned order) {
  switch (order) {
    case 4: return load_be<std::uint16_t>(block + index * 2);
    case 3: return block[index];
    case 5: return load_be<std::uint32_t>(block + index * 4);
    case 6: return load_be<std::uint64_t>(block + index * 8);
    default: {
      // Narrower than a byte: the lowest index is in the lowest bits.
      const unsigned width = 1u << order;
      const unsigned each = 8 / width;
      return bits(block[index / each], static_cast<unsigned>(index % each) * width, width);
    }
  }
}

void set_refcount(std::uint8_t* block, std::uint64_t index, unsigned order, std::uint64_t value) {
  switch (order) {
    case 4: store_be(block + index * 2, static_cast<std::uint16_t>(value)); return;
    case 3: block[index] = static_cast<std::uint8_t>(value); return;
    case 5: store_be(block + index * 4, static_cast<std::uint32_t>(value)); return;
    case 6: store_be(block + index * 8, value); return;
    default: {
      const unsigned width = 1u << order;
      const unsigned each = 8 / width;
      const unsigned shift = static_cast<unsigned>(index % each) * width;
      std::uint8_t& byte = block[index / each];
      byte = static_cast<std::uint8_t>((byte & ~mask_of(width, shift)) | (value & mask_of(width)) << shift);
    }
  }
}

}  // namespace husk::block::qcow2
