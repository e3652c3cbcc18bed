// husk: `husk img` info, check, map, measure and snapshot
#include <algorithm>
#include <cerrno>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "app/img/img_access.h"
#include "base/bits.h"

namespace husk::app::img {
namespace {

using Json = nlohmann::ordered_json;
using block::qcow2::Header;
using block::qcow2::Snapshot;

Result<bool> wants_json(const Arguments& arguments) {
  const std::string output = arguments.get("output", "human");
  if (output != "human" && output != "json") return fail("--output is '{}'; it is human or json", output);
  return output == "json";
}

std::string clock_text(std::uint64_t nanoseconds) {
  const std::uint64_t seconds = nanoseconds / 1'000'000'000;
  return fmt::format("{:02}:{:02}:{:02}.{:03}", seconds / 3600, seconds / 60 % 60, seconds % 60,
                     nanoseconds / 1'000'000 % 1000);
}

std::string snapshot_table(const std::vector<Snapshot>& snapshots) {
  std::string text =
      fmt::format("{:<10}{:<17}{:>8}{:>20}{:>13}{:>11}\n", "ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
  for (const Snapshot& s : snapshots) {
    const std::time_t when = s.seconds;
    std::tm parts{};
    ::localtime_r(&when, &parts);
    char date[64];
    std::strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &parts);
    const std::string icount = s.instruction_count == ~std::uint64_t{0} ? "" : std::to_string(s.instruction_count);
    text += fmt::format("{:<9} {:<16} {:>8}{:>20}{:>13}{:>11}\n", s.id, s.name, human_size(s.vm_state_size), date,
                        clock_text(s.vm_clock), icount);
  }
  return text;
}

/// One image of a chain, opened without its backing.
struct ImageInfo {
  std::string path, format, backing, full_backing, backing_format;
  std::uint64_t size = 0, cluster = 0;
  std::optional<std::uint64_t> allocated;
  std::optional<Header> header;
  std::vector<Snapshot> snapshots;
};

Result<ImageInfo> examine(Session& session, block::DiskOptions options) {
  options.for_inspection = true;
  options.without_backing = true;
  block::Node* node = HUSK_TRY(session.open(options));
  ImageInfo info;
  info.path = options.path;
  info.size = node->info().size;
  info.allocated = node->allocated_bytes();
  info.format = node->driver();
  if (const block::qcow2::Image* image = qcow2_of(*node)) {
    info.header = image->header();
    info.cluster = image->header().cluster_size();
    info.snapshots = image->snapshots();
    info.backing = image->header().backing_file;
    info.backing_format = image->header().backing_format;
    if (!info.backing.empty()) info.full_backing = block::resolve_path(options.path, info.backing);
  }
  HUSK_TRY(session.close(node));
  return info;
}

Json to_json(const ImageInfo& info) {
  Json json;
  if (!info.snapshots.empty()) {
    Json list = Json::array();
    for (const Snapshot& s : info.snapshots) {
      Json entry;
      if (s.instruction_count != ~std::uint64_t{0}) entry["icount"] = s.instruction_count;
      entry["vm-clock-nsec"] = s.vm_clock % 1'000'000'000;
      entry["name"] = s.name;
      entry["date-sec"] = s.seconds;
      entry["date-nsec"] = s.nanoseconds;
      entry["vm-clock-sec"] = s.vm_clock / 1'000'000'000;
      entry["id"] = s.id;
      entry["vm-state-size"] = s.vm_state_size;
      list.push_back(entry);
    }
    json["snapshots"] = list;
  }
  if (!info.backing_format.empty()) json["backing-filename-format"] = info.backing_format;
  json["virtual-size"] = info.size;
  json["filename"] = info.path;
  if (info.cluster != 0) json["cluster-size"] = info.cluster;
  json["format"] = info.format;
  if (info.allocated) json["actual-size"] = *info.allocated;
  if (info.header) {
    const Header& h = *info.header;
    Json data;
    data["compat"] = h.version == 2 ? "0.10" : "1.1";
    data["compression-type"] = h.compression == block::qcow2::Compression::zstd ? "zstd" : "zlib";
    if (h.version >= 3) {
      data["lazy-refcounts"] = (h.compatible & block::qcow2::kLazyRefcounts) != 0;
      if (h.external_data()) {
        data["data-file"] = h.data_file;
        data["data-file-raw"] = h.raw_external_data();
      }
      data["refcount-bits"] = 1u << h.refcount_order;
      data["corrupt"] = (h.incompatible & block::qcow2::kCorrupt) != 0;
      data["extended-l2"] = h.extended_l2();
    } else {
      data["refcount-bits"] = 16;
    }
    json["format-specific"] = {{"type", "qcow2"}, {"data", data}};
  }
  if (!info.full_backing.empty()) json["full-backing-filename"] = info.full_backing;
  if (!info.backing.empty()) json["backing-filename"] = info.backing;
  json["dirty-flag"] = info.header && (info.header->incompatible & block::qcow2::kDirty) != 0;
  return json;
}

std::string to_text(const ImageInfo& info) {
  std::string text = fmt::format("image: {}\nfile format: {}\nvirtual size: {} ({} bytes)\n", info.path, info.format,
                                 human_size(info.size), info.size);
  text += fmt::format("disk size: {}\n", info.allocated ? human_size(*info.allocated) : "unavailable");
  if (info.header && (info.header->incompatible & block::qcow2::kDirty)) text += "cleanly shut down: no\n";
  if (info.cluster != 0) text += fmt::format("cluster_size: {}\n", info.cluster);
  if (!info.backing.empty()) {
    text += fmt::format("backing file: {}", info.backing);
    if (info.full_backing != info.backing) text += fmt::format(" (actual path: {})", info.full_backing);
    text += "\n";
    if (!info.backing_format.empty()) text += fmt::format("backing file format: {}\n", info.backing_format);
  }
  if (!info.snapshots.empty()) text += "Snapshot list:\n" + snapshot_table(info.snapshots);
  if (info.header) {
    const Header& h = *info.header;
    text += fmt::format("Format specific information:\n    compat: {}\n    compression type: {}\n",
                        h.version == 2 ? "0.10" : "1.1",
                        h.compression == block::qcow2::Compression::zstd ? "zstd" : "zlib");
    if (h.version >= 3)
      text += fmt::format("    lazy refcounts: {}\n", (h.compatible & block::qcow2::kLazyRefcounts) != 0);
    text += fmt::format("    refcount bits: {}\n", 1u << h.refcount_order);
    if (h.external_data())
      text += fmt::format("    data file: {}\n    data file raw: {}\n", h.data_file, h.raw_external_data());
    if (h.version >= 3)
      text += fmt::format("    corrupt: {}\n    extended l2: {}\n", (h.incompatible & block::qcow2::kCorrupt) != 0,
                          h.extended_l2());
  }
  return text;
}

/// qemu-img's layout: four spaces, and a line break at the end.
std::string dump(const Json& json) { return json.dump(4, ' ', false, Json::error_handler_t::replace) + "\n"; }

}  // namespace

Result<int> command_info(Session& session, const Arguments& arguments) {
  const bool as_json = HUSK_TRY(wants_json(arguments));
  const bool chain = arguments.has("backing-chain");
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  Json list = Json::array();
  std::string text;
  std::vector<std::string> seen;
  while (true) {
    std::error_code error;
    const std::string place = std::filesystem::weakly_canonical(options.path, error).string();
    if (std::find(seen.begin(), seen.end(), place) != seen.end())
      return fail("the backing chain loops: '{}' is in it twice", options.path);
    if (seen.size() >= block::kLongestChain)
      return fail("the backing chain is longer than {} images", block::kLongestChain);
    seen.push_back(place);
    const ImageInfo info = HUSK_TRY(examine(session, options));
    list.push_back(to_json(info));
    text += (text.empty() ? "" : "\n") + to_text(info);
    if (!chain || info.backing.empty()) break;
    options.path = info.full_backing;
    options.format = info.backing_format;
  }
  session.print_always("{}", as_json ? dump(chain ? list : list[0]) : text);
  return 0;
}

Result<int> command_check(Session& session, const Arguments& arguments) {
  using namespace block::qcow2;
  const bool as_json = HUSK_TRY(wants_json(arguments));
  Repair repair = Repair::none;
  if (arguments.has("r")) {
    const std::string what = arguments.get("r");
    if (what != "leaks" && what != "all") return fail("-r is '{}'; it is leaks or all", what);
    repair = what == "all" ? Repair::all : Repair::leaks;
  }
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  options.read_only = repair == Repair::none;
  if (!options.read_only && arguments.has("U")) return fail("-r writes; that does not go with -U");
  block::Node* file = HUSK_TRY(session.open_protocol(options));
  const std::string format =
      !options.format.empty() ? options.format : HUSK_TRY(block::guess_format(session.context(), *file));
  if (format != "qcow2") {
    HUSK_TRY(session.close(file));
    session.warn("husk img check: this image format does not support checks\n");
    return 63;
  }
  Disk disk(session.context(), *file);
  auto header = read_header(disk);
  auto outcome = [&]() -> Result<CheckReport> {
    HUSK_TRY(Status(header ? Status{} : std::unexpected(header.error())));
    Metadata meta = HUSK_TRY(read_metadata(disk, *header));
    return check(disk, meta, repair, [&](double part) { session.progress(part); });
  }();
  HUSK_TRY(session.close(file));
  if (!outcome) return std::unexpected(std::move(outcome).error());
  const CheckReport& report = *outcome;
  if (as_json) {
    Json json;
    json["image-end-offset"] = report.image_end;
    json["total-clusters"] = report.total_clusters;
    json["check-errors"] = report.check_errors;
    if (report.corruptions) json["corruptions"] = report.corruptions;
    if (report.leaks) json["leaks"] = report.leaks;
    if (report.corruptions_fixed) json["corruptions-fixed"] = report.corruptions_fixed;
    if (report.leaks_fixed) json["leaks-fixed"] = report.leaks_fixed;
    if (report.allocated_clusters) json["allocated-clusters"] = report.allocated_clusters;
    if (report.fragmented_clusters) json["fragmented-clusters"] = report.fragmented_clusters;
    if (report.compressed_clusters) json["compressed-clusters"] = report.compressed_clusters;
    json["filename"] = arguments.names[0];
    json["format"] = format;
    session.print_always("{}", dump(json));
  } else {
    for (const std::string& message : report.messages) session.print("{}\n", message);
    if (report.corruptions_fixed || report.leaks_fixed)
      session.print(
          "The following inconsistencies were found and repaired:\n\n    {} leaked clusters\n    {} corruptions\n\n"
          "Double checking the fixed image now...\n",
          report.leaks_fixed, report.corruptions_fixed);
    if (report.corruptions == 0 && report.leaks == 0) session.print("No errors were found on the image.\n");
    if (report.corruptions)
      session.print(
          "\n{} errors were found on the image.\nData may be corrupted, or further writes to the image may corrupt "
          "it.\n",
          report.corruptions);
    if (report.leaks)
      session.print(
          "\n{} leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
          report.leaks);
    if (report.allocated_clusters && report.total_clusters) {
      const auto percent = [](std::uint64_t part, std::uint64_t of) {
        return of == 0 ? 0.0 : static_cast<double>(part) * 100.0 / static_cast<double>(of);
      };
      session.print("{}/{} = {:.2f}% allocated, {:.2f}% fragmented, {:.2f}% compressed clusters\n",
                    report.allocated_clusters, report.total_clusters,
                    percent(report.allocated_clusters, report.total_clusters),
                    percent(report.fragmented_clusters, report.allocated_clusters),
                    percent(report.compressed_clusters, report.allocated_clusters));
    }
    if (report.image_end) session.print("Image end offset: {}\n", report.image_end);
  }
  return report.corruptions > 0 ? 2 : report.leaks > 0 ? 3 : 0;
}

Result<int> command_map(Session& session, const Arguments& arguments) {
  const bool as_json = HUSK_TRY(wants_json(arguments));
  const auto option = [&](const char* letter, const char* name) {
    return arguments.has(name) ? arguments.get(name) : arguments.get(letter);
  };
  block::Node* node = HUSK_TRY(session.open(HUSK_TRY(source_options(arguments, arguments.names[0]))));
  const std::uint64_t size = node->info().size;
  std::uint64_t at = 0, end = size;
  if (const std::string start = option("s", "start-offset"); !start.empty())
    at = HUSK_TRY(parse_size(start, "--start-offset"));
  if (const std::string most = option("l", "max-length"); !most.empty())
    end = std::min(size, checked_add(at, HUSK_TRY(parse_size(most, "--max-length"))).value_or(size));
  struct Row {
    std::uint64_t start, length;
    int depth;
    bool present, zero, data;
    std::optional<std::uint64_t> offset;
    std::string file;
    bool compressed;
  };
  std::optional<Row> held;
  bool first = true;
  Status bad;
  const auto show = [&](const Row& row) {
    if (as_json) {
      const auto truth = [](bool b) { return b ? "true" : "false"; };
      session.print_always(
          "{}{{ \"start\": {}, \"length\": {}, \"depth\": {}, \"present\": {}, \"zero\": {}, \"data\": {}",
          first ? "[" : ",\n", row.start, row.length, row.depth, truth(row.present), truth(row.zero), truth(row.data));
      if (row.offset) session.print_always(", \"offset\": {}", *row.offset);
      session.print_always("}}");
      first = false;
      return;
    }
    if (!row.data || row.zero) return;
    if (!row.offset) {
      bad = std::unexpected(
          Error{fmt::format("'{}' has external, encrypted or compressed clusters, which only --output json shows",
                            arguments.names[0]),
                ""});
      return;
    }
    // C's "%#x" has no prefix for zero.
    const auto hex = [](std::uint64_t value) { return value == 0 ? std::string("0") : fmt::format("{:#x}", value); };
    session.print_always("{:<16}{:<16}{:<16}{}\n", hex(row.start), hex(row.length), hex(*row.offset), row.file);
  };
  if (!as_json) session.print_always("{:<16}{:<16}{:<16}{}\n", "Offset", "Length", "Mapped to", "File");
  while (at < end) {
    const Origin origin = HUSK_TRY(find_origin(session, *node, at, end - at));
    const block::Extent& e = origin.extent;
    block::Node* file = origin.layer;
    if (auto* image = qcow2_of(*file); image != nullptr && image->data_file() != nullptr) file = image->data_file();
    Row row{at,
            std::min(e.length, end - at),
            origin.depth,
            e.present,
            e.zero || !e.present,
            e.data,
            e.host_offset,
            file->name(),
            e.compressed};
    at += row.length;
    // A hole of a raw file is at its place all the same.
    if (origin.layer->driver() == "raw" && !row.offset && e.present) row.offset = row.start;
    if (held && held->depth == row.depth && held->present == row.present && held->zero == row.zero &&
        held->data == row.data && held->compressed == row.compressed &&
        held->offset.has_value() == row.offset.has_value() && held->file == row.file &&
        (!row.offset || *held->offset + held->length == *row.offset)) {
      held->length += row.length;
      continue;
    }
    if (held) show(*held);
    held = row;
  }
  if (held) show(*held);
  if (as_json) session.print_always("{}]\n", first ? "[" : "");
  HUSK_TRY(session.close(node));
  HUSK_TRY(bad);
  return 0;
}

Result<int> command_measure(Session& session, const Arguments& arguments) {
  const bool as_json = HUSK_TRY(wants_json(arguments));
  const std::string format = arguments.get("O", "raw");
  if (format != "raw" && format != "qcow2") return fail("husk has no image format '{}'; it has raw and qcow2", format);
  const bool of_image = !arguments.names.empty();
  if (of_image == arguments.has("size")) return fail("measure wants either a file or --size");
  std::map<std::string, std::string> pairs;
  if (const auto given = arguments.options.find("o"); given != arguments.options.end())
    pairs = HUSK_TRY(parse_pairs(given->second));
  block::Node* node = nullptr;
  std::uint64_t size = 0;
  if (of_image) {
    block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
    options.snapshot = arguments.get("l");
    if (options.snapshot.starts_with("snapshot.name=")) options.snapshot = options.snapshot.substr(14);
    node = HUSK_TRY(session.open(options));
    size = node->info().size;
  } else {
    size = HUSK_TRY(parse_size(arguments.get("size"), "--size"));
  }
  size = align_up<std::uint64_t>(size, 512);
  std::uint64_t required = size, full = size;
  if (format == "qcow2") {
    std::uint64_t cluster = 65536;
    unsigned order = 4;
    bool extended = false;
    if (pairs.contains("cluster_size")) cluster = HUSK_TRY(parse_size(pairs["cluster_size"], "cluster_size"));
    if (cluster < 512 || cluster > 2u << 20 || (cluster & (cluster - 1)) != 0)
      return fail("cluster_size must be a power of two from 512 to 2M");
    if (pairs.contains("refcount_bits")) {
      const std::uint64_t bits_of = HUSK_TRY(parse_number(pairs["refcount_bits"], "refcount_bits", 64));
      if (bits_of == 0 || (bits_of & (bits_of - 1)) != 0) return fail("refcount_bits must be a power of two up to 64");
      order = static_cast<unsigned>(std::countr_zero(bits_of));
    }
    if (pairs.contains("extended_l2")) extended = HUSK_TRY(parse_switch(pairs["extended_l2"], "extended_l2"));
    const std::uint64_t entry = extended ? 16 : 8;
    const std::uint64_t aligned = align_up(size, cluster);
    const auto round = [](std::uint64_t value, std::uint64_t to) { return (value + to - 1) / to * to; };
    // Header, L2 and L1 tables, then the refcounts of all that and of themselves.
    const std::uint64_t l2 = round(aligned / cluster, cluster / entry);
    const std::uint64_t l1 = round(l2 * entry / cluster, cluster / 8);
    std::uint64_t meta = cluster + l2 * entry + l1 * 8;
    const std::uint64_t clusters = (meta + aligned) / cluster, per_block = (cluster * 8) >> order;
    std::uint64_t blocks = 0, table = 0, last, now = 0;
    do {
      last = now;
      blocks = (clusters + table + blocks + per_block - 1) / per_block;
      table = (blocks + cluster / 8 - 1) / (cluster / 8);
      now = clusters + blocks + table;
    } while (now != last);
    meta += (blocks + table) * cluster;
    full = meta + aligned;
    const std::string preallocation = pairs.contains("preallocation") ? pairs["preallocation"] : "off";
    std::uint64_t data = 0;
    if (node) {
      for (std::uint64_t at = 0; at < node->info().size;) {
        const Origin origin = HUSK_TRY(find_origin(session, *node, at, node->info().size - at));
        std::uint64_t length = origin.extent.length;
        if (!origin.extent.zero && origin.extent.present) {
          const std::uint64_t end = align_up(at + length, cluster);
          data += at % cluster + (end - at);
          length = end - at;
        }
        at += length;
      }
    }
    if (preallocation == "full" || preallocation == "falloc" || (node && pairs.contains("backing_file")))
      data = aligned;
    required = meta + data;
  }
  // qemu-img adds what the source's persistent bitmaps would take, if it can have any; husk copies none.
  const block::qcow2::Image* source = node == nullptr ? nullptr : qcow2_of(*node);
  const bool bitmaps = format == "qcow2" && source != nullptr && source->header().version >= 3 &&
                       (source->header().autoclear & block::qcow2::kBitmaps) == 0;
  if (node) HUSK_TRY(session.close(node));
  if (as_json) {
    Json json;
    if (bitmaps) json["bitmaps"] = 0;
    json["required"] = required;
    json["fully-allocated"] = full;
    session.print_always("{}", dump(json));
  } else {
    session.print_always("required size: {}\nfully allocated size: {}\n{}", required, full,
                         bitmaps ? "bitmaps size: 0\n" : "");
  }
  return 0;
}

Result<int> command_snapshot(Session& session, const Arguments& arguments) {
  const int actions = arguments.has("l") + arguments.has("a") + arguments.has("c") + arguments.has("d");
  if (actions > 1) return fail("-l, -a, -c and -d do not go together");
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  const bool list = actions == 0 || arguments.has("l");
  options.read_only = list;
  if (!list && arguments.has("U")) return fail("-U is for listing only");
  options.for_inspection = list;
  options.without_backing = true;
  block::Node* node = HUSK_TRY(session.open(options));
  block::qcow2::Image* image = qcow2_of(*node);
  if (image == nullptr && list) return 0;
  if (image == nullptr) return fail("'{}' is {}; it has no snapshots", arguments.names[0], node->driver());
  Status outcome;
  if (list) {
    if (!image->snapshots().empty()) session.print_always("Snapshot list:\n{}", snapshot_table(image->snapshots()));
  } else {
    session.context().wait([&](core::BlockCompletion done) {
      auto finished = [&outcome, done = std::move(done)](Status status) mutable {
        outcome = std::move(status);
        done(0);
      };
      if (arguments.has("c"))
        image->create_snapshot(arguments.get("c"), std::move(finished));
      else if (arguments.has("a"))
        image->apply_snapshot(arguments.get("a"), std::move(finished));
      else
        image->delete_snapshot(arguments.get("d"), std::move(finished));
    });
  }
  const Status closed = session.close(node);
  HUSK_TRY(outcome);
  HUSK_TRY(closed);
  return 0;
}

}  // namespace husk::app::img
