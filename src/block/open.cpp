// husk: opens disks: protocol, format, backing chain and filters from one description
#include "block/open.h"

#include <sys/stat.h>

#include <cerrno>
#include <set>

#include "base/bits.h"
#include "block/nbd.h"
#include "block/overlay.h"
#include "block/qcow2.h"
#include "block/qcow2_surgery.h"
#include "block/raw.h"

namespace husk::block {

Result<CacheMode> parse_cache_mode(const std::string& name) {
  if (name == "writeback") return CacheMode::writeback;
  if (name == "none" || name == "off") return CacheMode::none;
  if (name == "writethrough") return CacheMode::writethrough;
  if (name == "directsync") return CacheMode::directsync;
  if (name == "unsafe") return CacheMode::unsafe;
  return std::unexpected(Error{fmt::format("there is no cache mode '{}'", name),
                               "it is none, writeback, writethrough, directsync or unsafe"});
}

bool is_address(const std::string& path) {
  // As QEMU's path_has_protocol(): a colon before any slash.
  const auto at = path.find_first_of(":/");
  return at != std::string::npos && path[at] == ':';
}

std::string resolve_path(const std::string& image, const std::string& path) {
  if (path.empty() || path.front() == '/' || is_address(path) || is_address(image)) return path;
  const auto slash = image.rfind('/');
  return slash == std::string::npos ? path : image.substr(0, slash + 1) + path;
}

Result<std::unique_ptr<Node>> open_protocol(Context& context, const DiskOptions& options) {
  const bool sync = options.cache == CacheMode::writethrough || options.cache == CacheMode::directsync;
  std::string path = options.path;
  if (path.starts_with("file:")) path = path.substr(path.starts_with("file://") ? 7 : 5);
  if (path.starts_with("nbd:") || path.starts_with("nbd+unix:") || path.starts_with("nbds:") ||
      path.starts_with("nbds+unix:"))
    return Nbd::open(context, {.address = path,
                               .read_only = options.read_only,
                               .writethrough = sync,
                               .reconnect_ns = options.nbd_reconnect_ns});
  if (is_address(path) && !options.path.starts_with("file:")) {
    struct stat what{};
    // QEMU takes such a name for a protocol even if there is a file of that name; so must a tool that reads its images.
    const std::string protocol = path.substr(0, path.find(':'));
    return std::unexpected(Error{fmt::format("husk has no protocol '{}' (for '{}')", protocol, path),
                                 ::stat(path.c_str(), &what) == 0 ? "if it is a file, write ./ before its name"
                                                                  : "it has files, block devices and nbd:"});
  }
  FileOptions file;
  file.path = path;
  file.read_only = options.read_only;
  file.direct = options.cache == CacheMode::none || options.cache == CacheMode::directsync;
  file.ignore_flush = options.cache == CacheMode::unsafe;
  file.writethrough = sync;
  file.discard = options.discard;
  file.locking = options.locking;
  return File::open(context, file);
}

Result<std::string> guess_format(Context& context, Node& file) {
  std::uint8_t magic[4] = {};
  if (file.info().size < sizeof magic) return "raw";
  qcow2::Disk disk(context, file);
  HUSK_TRY(disk.read(0, magic));
  return load_be<std::uint32_t>(magic) == qcow2::kMagic ? "qcow2" : "raw";
}

namespace {

class Opener {
 public:
  explicit Opener(Context& context) : context_(context) {}

  Result<std::unique_ptr<Node>> open(const DiskOptions& options, unsigned depth) {
    if (depth >= kLongestChain) return fail("the backing chain is longer than {} images", kLongestChain);
    HUSK_TRY(note(options.path));
    auto file = HUSK_TRY(open_protocol(context_, file_options(options)));
    const std::string format = !options.format.empty() ? options.format : HUSK_TRY(guess_format(context_, *file));
    if (format == "raw" || format == "file" || format == "host_device" || format == "nbd") {
      return Raw::open(std::move(file), {.offset = options.raw_offset,
                                         .size = options.raw_size,
                                         .guessed = options.format.empty() && !options.read_only && depth == 0});
    }
    if (format != "qcow2")
      return std::unexpected(
          Error{fmt::format("husk has no image format '{}' (of '{}')", format, options.path), "it has raw and qcow2"});
    return open_qcow2(options, std::move(file), depth);
  }

 private:
  /// Of a format that orders its own writes: those of the file need not be stable one by one.
  static DiskOptions file_options(DiskOptions options) {
    if (options.format == "qcow2") {
      if (options.cache == CacheMode::writethrough) options.cache = CacheMode::writeback;
      if (options.cache == CacheMode::directsync) options.cache = CacheMode::none;
    }
    return options;
  }

  /// Refuses a file that is in the chain already.
  Status note(const std::string& path) {
    struct stat what{};
    if (::stat(path.c_str(), &what) != 0 || !S_ISREG(what.st_mode)) return {};
    if (!seen_.insert({what.st_dev, what.st_ino}).second)
      return std::unexpected(Error{fmt::format("the backing chain loops: '{}' is in it twice", path),
                                   "correct it with 'husk img rebase -u'"});
    return {};
  }

  Result<std::unique_ptr<Node>> open_qcow2(const DiskOptions& options, std::unique_ptr<Node> file, unsigned depth) {
    qcow2::Disk disk(context_, *file);
    qcow2::Header header = HUSK_TRY(qcow2::read_header(disk));
    DiskOptions below = options;
    below.read_only = true;
    below.temporary = false;
    below.raw_offset = 0;
    below.raw_size.reset();
    below.lazy_refcounts.reset();
    below.snapshot.clear();
    if (below.locking == Locking::share_rw) below.locking = Locking::automatic;
    std::unique_ptr<Node> data_file, backing;
    if (header.external_data()) {
      if (header.data_file.empty())
        return fail("'{}' keeps its data in another file, but does not name it", options.path);
      DiskOptions data = options;
      data.path = resolve_path(options.path, header.data_file);
      HUSK_TRY(note(data.path));
      auto opened = open_protocol(context_, data);
      if (!opened)
        return std::unexpected(std::move(opened).error().within(fmt::format("the data file of '{}'", options.path)));
      data_file = *std::move(opened);
    }
    if (!header.backing_file.empty() && !options.without_backing) {
      below.path = resolve_path(options.path, header.backing_file);
      below.format = header.backing_format;
      if (below.format.empty())
        context_.log().debug("'{}' does not say what format its backing file has", options.path);
      auto opened = open(below, depth + 1);
      if (!opened)
        return depth > 0 ? std::move(opened)
                         : std::unexpected(
                               std::move(opened).error().within(fmt::format("the backing file of '{}'", options.path)));
      backing = *std::move(opened);
    }
    qcow2::ImageOptions image;
    image.read_only = options.read_only || options.for_inspection;
    image.writethrough = options.cache == CacheMode::writethrough || options.cache == CacheMode::directsync;
    image.discard = options.discard;
    image.lazy_refcounts = options.lazy_refcounts;
    image.for_inspection = options.for_inspection;
    image.snapshot = options.snapshot;
    if (options.l2_cache) image.l2_cache = *options.l2_cache;
    return qcow2::Image::open(context_, std::move(file), std::move(header), std::move(data_file), std::move(backing),
                              image);
  }

  Context& context_;
  std::set<std::pair<dev_t, ino_t>> seen_;
};

}  // namespace

Result<std::unique_ptr<Node>> open_disk(Context& context, const DiskOptions& options) {
  DiskOptions own = options;
  if (own.temporary) own.read_only = true;
  if (own.for_inspection) own.read_only = true;
  if (own.locking == Locking::force_share && !own.read_only)
    return fail("'{}': force-share is for images that are only read", options.path);
  if (own.format.empty() && (own.cache == CacheMode::writethrough || own.cache == CacheMode::directsync)) {
    // Whether the file or the format makes writes stable depends on the format.
    DiskOptions look = own;
    look.read_only = true;
    look.cache = CacheMode::writeback;
    auto file = HUSK_TRY(open_protocol(context, look));
    const std::string format = HUSK_TRY(guess_format(context, *file));
    HUSK_TRY(close_node(context, *file));
    if (format == "qcow2") own.format = format;
  }
  std::unique_ptr<Node> node = HUSK_TRY(Opener(context).open(own, 0));
  if (!options.snapshot.empty() && node->driver() != "qcow2")
    return fail("'{}' is {}; it has no snapshots", options.path, node->driver());
  if (options.temporary) {
    const std::uint64_t size = node->info().size;
    node = std::make_unique<Overlay>(std::move(node), size);
  }
  if (options.throttle.any()) node = std::make_unique<Throttle>(context, std::move(node), options.throttle);
  return node;
}

Status close_node(Context& context, Node& node) {
  const int error = context.wait([&](core::BlockCompletion done) { node.close(std::move(done)); });
  if (error != 0) return fail_errno(error, fmt::format("cannot write '{}' to its end", node.name()));
  return {};
}

}  // namespace husk::block
