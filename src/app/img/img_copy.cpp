// husk: `husk img` create, convert, dd and resize
#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <bit>
#include <cerrno>

#include "app/img/img_access.h"
#include "base/bits.h"
#include "host/file.h"

namespace husk::app::img {
namespace {

using block::Preallocation;

Result<Preallocation> parse_preallocation(const std::string& text) {
  if (text == "off") return Preallocation::off;
  if (text == "metadata") return Preallocation::metadata;
  if (text == "falloc") return Preallocation::falloc;
  if (text == "full") return Preallocation::full;
  return fail("preallocation is '{}'; it is off, metadata, falloc or full", text);
}

/// An empty file, or a block device as it is.
Status make_file(const std::string& path) {
  struct stat what{};
  if (::stat(path.c_str(), &what) == 0 && !S_ISREG(what.st_mode)) return {};
  // Not emptied here: the image may be in use, which the lock taken after opening tells.
  HUSK_TRY(host::open_file(path, O_RDWR | O_CREAT));
  return {};
}

Status create_raw(Session& session, const std::string& path, std::uint64_t size, const std::string& preallocation) {
  const Preallocation mode = HUSK_TRY(parse_preallocation(preallocation));
  if (mode == Preallocation::metadata) return fail("raw images have no metadata to preallocate");
  HUSK_TRY(make_file(path));
  block::Node* file = HUSK_TRY(session.open_protocol({.path = path}));
  if (file->growable()) HUSK_TRY(session.resize(*file, 0, Preallocation::off));
  HUSK_TRY(session.resize(*file, align_up<std::uint64_t>(size, 512), mode));
  return session.close(file);
}

struct Qcow2Text {
  std::string text;
  void add(const std::string& name, const auto& value) { text += fmt::format(" {}={}", name, value); }
};

}  // namespace

/// Returns what qemu-img tells about it.
Result<std::string> create_image(Session& session, Creation creation) {
  auto& pairs = creation.pairs;
  const auto take = [&](const std::string& name) -> std::optional<std::string> {
    const auto found = pairs.find(name);
    if (found == pairs.end()) return std::nullopt;
    std::string value = found->second;
    pairs.erase(found);
    return value;
  };
  if (const auto size = take("size"); size && !creation.size) creation.size = HUSK_TRY(parse_size(*size, "size"));
  if (const auto backing = take("backing_file"); backing && creation.backing.empty()) creation.backing = *backing;
  if (const auto format = take("backing_fmt"); format && creation.backing_format.empty())
    creation.backing_format = *format;
  take("nocow");
  const std::string preallocation = take("preallocation").value_or("off");
  std::string description = fmt::format("Formatting '{}', fmt={}", creation.path, creation.format);
  if (creation.format != "raw" && creation.format != "qcow2")
    return std::unexpected(
        Error{fmt::format("husk has no image format '{}'", creation.format), "it has raw and qcow2"});
  if (!creation.backing.empty()) {
    if (creation.format != "qcow2") return fail("the format '{}' has no backing files", creation.format);
    if (creation.backing_format.empty())
      return std::unexpected(Error{"a backing file needs its format", "give it by -F"});
    if (!creation.backing_unchecked || !creation.size) {
      block::DiskOptions options;
      options.path = block::resolve_path(creation.path, creation.backing);
      options.format = creation.backing_format;
      options.read_only = true;
      options.locking = block::Locking::force_share;
      block::Node* backing = HUSK_TRY(session.open(options));
      if (!creation.size) creation.size = backing->info().size;
      HUSK_TRY(session.close(backing));
    }
  }
  if (!creation.size) return fail("the image needs a size");
  const std::uint64_t size = align_up<std::uint64_t>(*creation.size, 512);
  if (creation.format == "raw") {
    if (!pairs.empty()) return fail("raw images have no option '{}'", pairs.begin()->first);
    description += fmt::format(" size={}", *creation.size);
    if (preallocation != "off") description += " preallocation=" + preallocation;
    HUSK_TRY(create_raw(session, creation.path, size, preallocation));
    return description;
  }
  block::qcow2::CreateOptions options;
  options.size = size;
  options.backing_file = creation.backing;
  options.backing_format = creation.backing_format;
  std::uint64_t cluster = 65536;
  if (const auto text = take("cluster_size")) cluster = HUSK_TRY(parse_size(*text, "cluster_size"));
  if (cluster < 512 || cluster > 2u << 20 || !std::has_single_bit(cluster))
    return fail("cluster_size is {}; it must be a power of two from 512 to 2M", cluster);
  options.cluster_bits = static_cast<unsigned>(std::countr_zero(cluster));
  const auto compat_given = take("compat");
  const std::string compat = compat_given.value_or("1.1");
  if (compat == "0.10" || compat == "v2")
    options.version = 2;
  else if (compat != "1.1" && compat != "v3")
    return fail("compat is '{}'; it is 0.10 or 1.1", compat);
  if (const auto text = take("lazy_refcounts"))
    options.lazy_refcounts = HUSK_TRY(parse_switch(*text, "lazy_refcounts"));
  if (const auto text = take("extended_l2")) options.extended_l2 = HUSK_TRY(parse_switch(*text, "extended_l2"));
  if (const auto text = take("refcount_bits")) {
    const std::uint64_t width = HUSK_TRY(parse_number(*text, "refcount_bits", 64));
    if (!std::has_single_bit(width)) return fail("refcount_bits is {}; it must be a power of two up to 64", width);
    options.refcount_order = static_cast<unsigned>(std::countr_zero(width));
  }
  if (const auto text = take("compression_type")) {
    if (*text == "zstd")
      options.compression = block::qcow2::Compression::zstd;
    else if (*text != "zlib")
      return fail("compression_type is '{}'; it is zlib or zstd", *text);
  }
  if (const auto text = take("data_file")) options.data_file = *text;
  if (const auto text = take("data_file_raw")) options.raw_data_file = HUSK_TRY(parse_switch(*text, "data_file_raw"));
  const Preallocation mode = HUSK_TRY(parse_preallocation(preallocation));
  for (const auto& [name, value] : pairs) {
    if (name.starts_with("encrypt")) return fail("husk has no encryption of qcow2 images ('{}')", name);
    return fail("qcow2 images have no option '{}'", name);
  }
  if (options.version == 2 && (options.lazy_refcounts || options.extended_l2 || options.refcount_order != 4 ||
                               !options.data_file.empty() || options.compression != block::qcow2::Compression::zlib))
    return fail("compat=0.10 has no lazy_refcounts, extended_l2, refcount_bits, compression_type or data_file");
  if (options.extended_l2 && cluster < 16384) return fail("extended_l2 needs a cluster_size of 16k at least");
  if (options.raw_data_file && options.data_file.empty()) return fail("data_file_raw wants a data_file");
  if (options.raw_data_file && !creation.backing.empty())
    return fail("a raw data file and a backing file do not go together");
  if (mode != Preallocation::off && !creation.backing.empty())
    return fail("preallocation and a backing file do not go together: it would hide the backing file");

  Qcow2Text text;
  text.add("cluster_size", cluster);
  text.add("extended_l2", options.extended_l2 ? "on" : "off");
  if (preallocation != "off") text.add("preallocation", preallocation);
  text.add("compression_type", options.compression == block::qcow2::Compression::zstd ? "zstd" : "zlib");
  text.add("size", *creation.size);
  if (!options.backing_file.empty()) {
    text.add("backing_file", options.backing_file);
    text.add("backing_fmt", options.backing_format);
  }
  if (!options.data_file.empty()) text.add("data_file", options.data_file);
  if (compat_given) text.add("compat", compat);
  text.add("lazy_refcounts", options.lazy_refcounts ? "on" : "off");
  text.add("refcount_bits", 1u << options.refcount_order);
  description += text.text;

  if (!options.data_file.empty())
    HUSK_TRY(create_raw(session, block::resolve_path(creation.path, options.data_file), size, "off"));
  HUSK_TRY(make_file(creation.path));
  block::Node* file = HUSK_TRY(session.open_protocol({.path = creation.path}));
  if (file->growable()) HUSK_TRY(session.resize(*file, 0, Preallocation::off));
  block::qcow2::Disk disk(session.context(), *file);
  HUSK_TRY(block::qcow2::create(disk, options));
  HUSK_TRY(session.close(file));
  if (mode == Preallocation::off) return description;

  block::DiskOptions opening;
  opening.path = creation.path;
  opening.format = "qcow2";
  opening.without_backing = true;
  block::Node* node = HUSK_TRY(session.open(opening));
  const int error = session.context().wait(
      [&](core::BlockCompletion done) { qcow2_of(*node)->preallocate(0, size, std::move(done)); });
  if (error != 0) return fail_errno(error, fmt::format("cannot allocate the clusters of '{}'", creation.path));
  HUSK_TRY(session.flush(*node));
  block::Node* data = qcow2_of(*node)->data_file() != nullptr ? qcow2_of(*node)->data_file() : node->child();
  if (mode == Preallocation::full) {
    const std::vector<std::uint8_t> zeroes(2u << 20);
    for (std::uint64_t at = 0; at < size; at += zeroes.size())
      HUSK_TRY(session.write(*node, at, std::span(zeroes).first(std::min<std::uint64_t>(zeroes.size(), size - at))));
  }
  // The file reaches as far as its clusters; with falloc the space behind is reserved.
  std::uint64_t end = data->info().size;
  for (std::uint64_t at = 0; at < size;) {
    const block::Extent extent = HUSK_TRY(session.status(*node, at, size - at));
    if (extent.host_offset) end = std::max(end, align_up(*extent.host_offset + extent.length, cluster));
    at += extent.length;
  }
  if (data->growable() && end > data->info().size) HUSK_TRY(session.resize(*data, end, Preallocation::off));
  HUSK_TRY(session.close(node));
  if (mode == Preallocation::falloc) {
    const std::string path =
        options.data_file.empty() ? creation.path : block::resolve_path(creation.path, options.data_file);
    const host::UniqueFd fd = HUSK_TRY(host::open_file(path, O_RDWR));
    if (const int failed = ::posix_fallocate(fd.get(), 0, static_cast<off_t>(end)); failed != 0)
      return fail_errno(failed, fmt::format("cannot reserve {} bytes for '{}'", end, path));
  }
  return description;
}

Result<int> command_create(Session& session, const Arguments& arguments) {
  Creation creation;
  creation.path = arguments.names[0];
  creation.format = arguments.get("f", "raw");
  if (const auto given = arguments.options.find("o"); given != arguments.options.end())
    creation.pairs = HUSK_TRY(parse_pairs(given->second));
  if (arguments.names.size() > 1) creation.size = HUSK_TRY(parse_size(arguments.names[1], "the size"));
  creation.backing = arguments.get("b");
  creation.backing_format = arguments.get("F");
  creation.backing_unchecked = arguments.has("u");
  const std::string description = HUSK_TRY(create_image(session, std::move(creation)));
  session.print("{}\n", description);
  return 0;
}

namespace {

/// The sources, one after the other, as one disk.
struct Sources {
  struct Part {
    block::Node* node;
    std::uint64_t start, end;
  };
  std::vector<Part> parts;
  std::uint64_t size = 0;
  const Part& at(std::uint64_t offset) const {
    return *std::find_if(parts.begin(), parts.end(), [&](const Part& part) { return offset < part.end; });
  }
};

/// Copies runs side by side.
class Copier {
 public:
  struct Options {
    bool compress = false;
    bool target_zero = false;     ///< what is not written reads as zeroes
    std::uint64_t sparse = 4096;  ///< bytes of zeroes that are worth a hole; 0: none
    unsigned parallel = 8;
    std::uint64_t unit = 65536;     ///< pieces are multiples of it (the target's cluster)
    int backing_depth = INT32_MAX;  ///< layers of the source that are copied: those above -B's
    bool salvage = false;
    bool shares_backing = false;
  };
  Copier(Session& session, const Sources& sources, block::Node& target, const Options& options)
      : session_(session), sources_(sources), target_(target), options_(options) {}

  Status run() {
    Status outcome;
    while (position_ < sources_.size && outcome && error_ == 0) {
      outcome = step();
      session_.progress(static_cast<double>(position_) /
                        static_cast<double>(std::max<std::uint64_t>(sources_.size, 1)));
    }
    wait_until(0);
    HUSK_TRY(outcome);
    if (error_ != 0) return fail_errno(error_, fmt::format("cannot {} at {}", what_, where_));
    return {};
  }

 private:
  struct Piece {
    std::uint64_t offset;
    std::vector<std::uint8_t> data;
    core::BlockSpan span;
    unsigned pending = 0;
  };

  void wait_until(unsigned most) {
    while (in_flight_ > most) session_.loop().run_once();
  }
  void failed(int error, const char* what, std::uint64_t where) {
    if (error_ != 0) return;
    error_ = error;
    what_ = what;
    where_ = where;
  }

  Status step() {
    const Sources::Part& part = sources_.at(position_);
    const std::uint64_t unit = options_.unit;
    // Whole units from here on, so that each cluster of the target is written once.
    const std::uint64_t most =
        std::min(part.end, align_down(position_, unit) + std::max<std::uint64_t>(unit, 2u << 20)) - position_;
    const Origin origin =
        HUSK_TRY(find_origin(session_, *part.node, position_ - part.start, most, options_.backing_depth));
    std::uint64_t length = std::min(most, origin.extent.length);
    if (options_.shares_backing && !origin.extent.present) {
      position_ += length;
      return {};
    }
    const bool zero = origin.extent.zero || (!origin.extent.present && !options_.shares_backing);
    // A unit that is data in part is read whole.
    if (!zero)
      length = std::min(most, align_up(position_ + length, unit) - position_);
    else if (length < most && align_down(position_ + length, unit) > position_)
      length = align_down(position_ + length, unit) - position_;
    else if (length < most && options_.compress)
      return copy(part, std::min(most, align_up(position_ + length, unit) - position_));
    if (!zero) return copy(part, length);
    if (!options_.target_zero) {
      ++in_flight_;
      const std::uint64_t at = position_;
      target_.submit({.op = core::BlockOp::write_zeroes,
                      .flags = options_.sparse != 0 ? core::BlockFlags::kMayUnmap : 0,
                      .offset = at,
                      .length = length,
                      .spans = {},
                      .completion = [this, at](int error) {
                        --in_flight_;
                        if (error != 0) failed(error, "clear the target", at);
                      }});
      wait_until(options_.parallel - 1);
    } else if (options_.sparse == 0) {
      return copy(part, length);
    }
    position_ += length;
    return {};
  }

  Status copy(const Sources::Part& part, std::uint64_t length) {
    wait_until(options_.parallel - 1);
    auto piece = std::make_shared<Piece>(Piece{position_, std::vector<std::uint8_t>(length), {}});
    piece->span = piece->data;
    ++in_flight_;
    const std::uint64_t from = position_ - part.start;
    position_ += length;
    const std::span<const core::BlockSpan> spans(&piece->span, 1);
    part.node->submit({.op = core::BlockOp::read,
                       .flags = 0,
                       .offset = from,
                       .length = length,
                       .spans = spans,
                       .completion = [this, piece](int error) {
                         if (error != 0 && !options_.salvage) {
                           failed(error, "read the source", piece->offset);
                           --in_flight_;
                           return;
                         }
                         if (error != 0)
                           session_.warn("husk img convert: cannot read {} bytes at {}; they become zeroes\n",
                                         piece->data.size(), piece->offset);
                         store(piece);
                       }});
    return {};
  }

  /// Writes what is not zero.
  void store(const std::shared_ptr<Piece>& piece) {
    ++piece->pending;
    const std::uint64_t grain = options_.compress ? options_.unit : std::max<std::uint64_t>(options_.sparse, 512);
    const auto zero_at = [&](std::uint64_t at, std::uint64_t stop) {
      return options_.sparse != 0 && is_zero(std::span(piece->data).subspan(at, stop - at));
    };
    for (std::uint64_t at = 0; at < piece->data.size();) {
      // In multiples of the grain from the disk's start.
      const auto next = [&](std::uint64_t from) {
        return std::min<std::uint64_t>(piece->data.size(),
                                       align_down(piece->offset + from, grain) + grain - piece->offset);
      };
      std::uint64_t stop = next(at);
      const bool zero = zero_at(at, stop);
      while (stop < piece->data.size() && zero_at(stop, next(stop)) == zero) stop = next(stop);
      if (!zero || !options_.target_zero) send(piece, at, stop, zero);
      at = stop;
    }
    one_done(piece, 0);
  }

  void send(const std::shared_ptr<Piece>& piece, std::uint64_t from, std::uint64_t to, bool zero) {
    ++piece->pending;
    auto span = std::make_unique<core::BlockSpan>(piece->data.data() + from, to - from);
    const std::span<const core::BlockSpan> spans(span.get(), 1);
    const std::uint32_t flags = zero                ? core::BlockFlags::kMayUnmap
                                : options_.compress ? core::BlockFlags::kCompressed
                                                    : 0;
    target_.submit({.op = zero ? core::BlockOp::write_zeroes : core::BlockOp::write,
                    .flags = flags,
                    .offset = piece->offset + from,
                    .length = to - from,
                    .spans = zero ? std::span<const core::BlockSpan>{} : spans,
                    .completion = [this, piece, span = std::move(span)](int error) { one_done(piece, error); }});
  }

  void one_done(const std::shared_ptr<Piece>& piece, int error) {
    if (error != 0) failed(error, "write the target", piece->offset);
    if (--piece->pending == 0) --in_flight_;
  }

  Session& session_;
  const Sources& sources_;
  block::Node& target_;
  const Options options_;
  std::uint64_t position_ = 0;
  unsigned in_flight_ = 0;
  int error_ = 0;
  const char* what_ = "";
  std::uint64_t where_ = 0;
};

}  // namespace

Result<int> command_convert(Session& session, const Arguments& arguments) {
  Sources sources;
  for (std::size_t i = 0; i + 1 < arguments.names.size(); ++i) {
    block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[i]));
    options.snapshot = arguments.get("l");
    if (options.snapshot.starts_with("snapshot.name="))
      options.snapshot = options.snapshot.substr(14);
    else if (options.snapshot.starts_with("snapshot.id="))
      options.snapshot = options.snapshot.substr(12);
    block::Node* node = HUSK_TRY(session.open(options));
    sources.parts.push_back({node, sources.size, sources.size + node->info().size});
    sources.size += node->info().size;
  }
  if (arguments.has("l") && sources.parts.size() > 1) return fail("-l goes with one source only");
  const std::string target_name = arguments.names.back();
  const std::string format = arguments.get("O", "raw");
  const bool keep = arguments.has("n");
  Creation creation;
  if (const auto given = arguments.options.find("o"); given != arguments.options.end())
    creation.pairs = HUSK_TRY(parse_pairs(given->second));
  const std::string preallocation = creation.pairs.contains("preallocation") ? creation.pairs["preallocation"] : "off";
  const std::string backing = arguments.has("B")                        ? arguments.get("B")
                              : creation.pairs.contains("backing_file") ? creation.pairs["backing_file"]
                                                                        : "";
  if (arguments.has("c") && format != "qcow2") return fail("the format '{}' has no compression", format);
  if (arguments.has("c") && preallocation != "off") return fail("compression and preallocation do not go together");
  Copier::Options how;
  how.compress = arguments.has("c");
  how.salvage = arguments.has("salvage");
  if (arguments.has("S")) how.sparse = HUSK_TRY(parse_size(arguments.get("S"), "-S"));
  if (how.sparse != 0) how.sparse = std::max<std::uint64_t>(512, std::bit_ceil(how.sparse));
  if (arguments.has("m")) how.parallel = static_cast<unsigned>(HUSK_TRY(parse_number(arguments.get("m"), "-m", 16)));
  if (how.parallel == 0) how.parallel = 1;
  if (!backing.empty()) {
    if (sources.parts.size() > 1) return fail("a backing file goes with one source only");
    if (how.sparse == 0) return fail("-S 0 and a backing file do not go together");
    // The layers of the source above the one that the target shares, if it shares one.
    how.shares_backing = true;
    how.backing_depth = -1;
    struct stat wanted{};
    const std::string place = block::resolve_path(target_name, backing);
    const bool there = ::stat(place.c_str(), &wanted) == 0;
    int depth = 0;
    for (block::Node* node = sources.parts[0].node; node != nullptr; node = node->backing(), ++depth) {
      struct stat one{};
      if (there && depth > 0 && ::stat(node->name().c_str(), &one) == 0 && one.st_ino == wanted.st_ino &&
          one.st_dev == wanted.st_dev) {
        how.backing_depth = depth - 1;
        break;
      }
    }
    // Another backing: everything is compared by being written.
    if (how.backing_depth < 0) {
      how.shares_backing = false;
      how.backing_depth = INT32_MAX;
    }
  }
  if (keep) {
    if (arguments.has("o") && !creation.pairs.empty()) return fail("-n takes the target as it is; -o would change it");
  } else {
    creation.path = target_name;
    creation.format = format;
    creation.size = sources.size;
    creation.backing = backing;
    creation.backing_format = arguments.get("F");
    HUSK_TRY(create_image(session, creation));
  }
  block::DiskOptions opening;
  opening.path = target_name;
  opening.format = format;
  opening.cache = arguments.has("t") ? HUSK_TRY(block::parse_cache_mode(arguments.get("t"))) : block::CacheMode::unsafe;
  block::Node* target = HUSK_TRY(session.open(opening));
  if (target->info().size < sources.size)
    return fail("the target '{}' has {} bytes, less than the {} of the source", target_name, target->info().size,
                sources.size);
  const block::qcow2::Image* image = qcow2_of(*target);
  how.unit = image != nullptr ? image->header().cluster_size() : 65536;
  // A new image is empty; an image kept, a device, or one over a backing is not known to be.
  struct stat what{};
  const bool device = ::stat(target_name.c_str(), &what) != 0 || !S_ISREG(what.st_mode);
  how.target_zero = (!keep && backing.empty() && !(device && image == nullptr)) || arguments.has("target-is-zero");
  HUSK_TRY(Copier(session, sources, *target, how).run());
  HUSK_TRY(session.flush(*target));
  HUSK_TRY(session.close(target));
  for (const Sources::Part& part : sources.parts) HUSK_TRY(session.close(part.node));
  session.end_progress();
  return 0;
}

Result<int> command_dd(Session& session, const Arguments& arguments) {
  std::string from, to;
  std::uint64_t size_of_block = 512, skip = 0;
  std::optional<std::uint64_t> count;
  for (const std::string& word : arguments.names) {
    const auto equals = word.find('=');
    const std::string name = word.substr(0, equals), value = equals == std::string::npos ? "" : word.substr(equals + 1);
    if (name == "if")
      from = value;
    else if (name == "of")
      to = value;
    else if (name == "bs")
      size_of_block = HUSK_TRY(parse_size(value, "bs"));
    else if (name == "count")
      count = HUSK_TRY(parse_size(value, "count"));
    else if (name == "skip")
      skip = HUSK_TRY(parse_size(value, "skip"));
    else
      return std::unexpected(
          Error{fmt::format("there is no operand '{}'", word), "they are if=, of=, bs=, count= and skip="});
  }
  if (from.empty() || to.empty()) return fail("both if= and of= are needed");
  if (size_of_block == 0) return fail("bs must not be 0");
  block::Node* source = HUSK_TRY(session.open(HUSK_TRY(source_options(arguments, from))));
  const std::uint64_t whole = source->info().size;
  const std::uint64_t end = count ? checked_mul(size_of_block, skip)
                                        .and_then([&](std::uint64_t start) {
                                          const auto length = checked_mul(size_of_block, *count);
                                          return length ? checked_add(start, *length) : std::nullopt;
                                        })
                                        .value_or(whole)
                                  : whole;
  const std::uint64_t start = checked_mul(size_of_block, skip).value_or(whole);
  const std::uint64_t stop = std::min(end, whole);
  const std::uint64_t size = start < stop ? stop - start : 0;
  if (start > whole) session.warn("husk img dd: cannot skip to {}: the image ends at {}\n", start, whole);
  const std::string format = arguments.get("O", "raw");
  Creation creation;
  creation.path = to;
  creation.format = format;
  creation.size = size;
  HUSK_TRY(create_image(session, std::move(creation)));
  block::DiskOptions opening;
  opening.path = to;
  opening.format = format;
  block::Node* target = HUSK_TRY(session.open(opening));
  std::vector<std::uint8_t> buffer(std::clamp<std::uint64_t>(size_of_block, 512, 4u << 20));
  for (std::uint64_t at = 0; at < size; at += buffer.size()) {
    const auto piece = std::span(buffer).first(std::min<std::uint64_t>(buffer.size(), size - at));
    HUSK_TRY(session.read(*source, start + at, piece));
    if (!is_zero(piece)) HUSK_TRY(session.write(*target, at, piece));
  }
  HUSK_TRY(session.close(target));
  HUSK_TRY(session.close(source));
  return 0;
}

Result<int> command_resize(Session& session, const Arguments& arguments) {
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  options.read_only = false;
  const Preallocation mode = HUSK_TRY(parse_preallocation(arguments.get("preallocation", "off")));
  std::string text = arguments.names[1];
  const char sign = text.empty() ? ' ' : text[0];
  if (sign == '+' || sign == '-') text.erase(0, 1);
  const std::uint64_t given = align_up<std::uint64_t>(HUSK_TRY(parse_size(text, "the size")), 512);
  const bool guessed = options.format.empty();
  block::Node* node = HUSK_TRY(session.open(options));
  const std::uint64_t before = node->info().size;
  std::uint64_t size = given;
  if (sign == '+') size = checked_add(before, given).value_or(UINT64_MAX);
  if (sign == '-') {
    if (given > before) return fail("the image has {} bytes; {} less is not possible", before, given);
    size = before - given;
  }
  if (size > static_cast<std::uint64_t>(INT64_MAX)) return fail("the size of '{}' is too large", arguments.names[1]);
  if (size < before && !arguments.has("shrink"))
    return std::unexpected(Error{fmt::format("'{}' would lose {} bytes at its end", arguments.names[0], before - size),
                                 "say --shrink if that is meant"});
  if (size < before && mode != Preallocation::off) return fail("preallocation is for growing");
  if (guessed && node->driver() == "raw")
    session.warn("husk img resize: the format of '{}' was guessed to be raw; give it by -f\n", arguments.names[0]);
  HUSK_TRY(session.resize(*node, size, mode));
  HUSK_TRY(session.close(node));
  session.print("Image resized.\n");
  return 0;
}

}  // namespace husk::app::img
