// husk: `husk img` commit, rebase, compare and bench
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "app/img/img_access.h"
#include "base/bits.h"

namespace husk::app::img {
namespace {

constexpr std::uint64_t kPiece = 2u << 20;

bool same_file(const std::string& a, const std::string& b) {
  struct stat one{}, two{};
  return ::stat(a.c_str(), &one) == 0 && ::stat(b.c_str(), &two) == 0 && one.st_ino == two.st_ino &&
         one.st_dev == two.st_dev;
}

/// Bytes of a disk; beyond its end zeroes. Null: all zeroes.
Status read_or_zero(Session& session, block::Node* node, std::uint64_t at, std::span<std::uint8_t> to) {
  const std::uint64_t size = node == nullptr ? 0 : node->info().size;
  const std::size_t there = at >= size ? 0 : std::min<std::uint64_t>(to.size(), size - at);
  std::fill(to.begin() + static_cast<std::ptrdiff_t>(there), to.end(), std::uint8_t{0});
  return there == 0 ? Status{} : session.read(*node, at, to.first(there));
}

Status run_image(Session& session, const std::function<void(core::BlockSnapshotting::Done)>& start) {
  Status outcome;
  session.context().wait([&](core::BlockCompletion done) {
    start([&outcome, done = std::move(done)](Status status) mutable {
      outcome = std::move(status);
      done(0);
    });
  });
  return outcome;
}

}  // namespace

Result<int> command_commit(Session& session, const Arguments& arguments) {
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  if (arguments.has("r")) return fail("husk has no rate limit for commit");
  if (arguments.has("t")) options.cache = HUSK_TRY(block::parse_cache_mode(arguments.get("t")));
  // The top is written too (it is emptied), so nobody else may have it. Its chain is read by a second view of the same
  // files, which must not hinder the writing one.
  block::DiskOptions reading = options;
  reading.locking = block::Locking::off;
  block::Node* top = HUSK_TRY(session.open(reading));
  if (top->backing() == nullptr) return fail("'{}' has no backing file to commit to", arguments.names[0]);
  std::vector<block::Node*> chain;
  for (block::Node* node = top; node != nullptr; node = node->backing()) chain.push_back(node);
  std::size_t base = 1;
  if (arguments.has("b")) {
    const std::string wanted = arguments.get("b");
    const std::string place = block::resolve_path(arguments.names[0], wanted);
    while (base < chain.size() && chain[base]->name() != wanted && !same_file(chain[base]->name(), place)) ++base;
    if (base == chain.size()) return fail("'{}' is not in the backing chain of '{}'", wanted, arguments.names[0]);
  }
  block::DiskOptions writing = options;
  writing.path = chain[base]->name();
  writing.format = chain[base]->driver();
  writing.read_only = false;
  block::Node* target = HUSK_TRY(session.open(writing));
  const std::uint64_t size = top->info().size;
  if (target->info().size < size) HUSK_TRY(session.resize(*target, size, block::Preallocation::off));
  std::vector<std::uint8_t> buffer(kPiece);
  for (std::uint64_t at = 0; at < size;) {
    session.progress(static_cast<double>(at) / static_cast<double>(size));
    const Origin origin =
        HUSK_TRY(find_origin(session, *top, at, std::min(kPiece, size - at), static_cast<int>(base) - 1));
    const std::uint64_t length = std::min({origin.extent.length, kPiece, size - at});
    // Only what a layer above the base decides: the rest is in the base already.
    if (origin.extent.present && origin.extent.zero) {
      HUSK_TRY(session.zero(*target, at, length, core::BlockFlags::kMayUnmap));
    } else if (origin.extent.present) {
      const auto piece = std::span(buffer).first(length);
      HUSK_TRY(session.read(*top, at, piece));
      HUSK_TRY(session.write(*target, at, piece));
    }
    at += length;
  }
  HUSK_TRY(session.flush(*target));
  HUSK_TRY(session.close(target));
  HUSK_TRY(session.close(top));
  // As qemu-img: -b leaves the top as it is, like -d.
  if (!arguments.has("d") && !arguments.has("b")) {
    block::DiskOptions emptying = options;
    emptying.read_only = false;
    emptying.without_backing = true;
    block::Node* node = HUSK_TRY(session.open(emptying));
    block::qcow2::Image* image = qcow2_of(*node);
    HUSK_TRY(run_image(session, [&](auto done) { image->make_empty(std::move(done)); }));
    HUSK_TRY(session.close(node));
  }
  session.end_progress();
  session.print("Image committed.\n");
  return 0;
}

Result<int> command_rebase(Session& session, const Arguments& arguments) {
  if (!arguments.has("b")) return fail("-b BACKING is missing; -b '' makes an image without one");
  const std::string backing = arguments.get("b"), format = arguments.get("F");
  const bool unsafe = arguments.has("u");
  if (!backing.empty() && format.empty())
    return std::unexpected(Error{"a backing file needs its format", "give it by -F"});
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  options.locking = block::Locking::automatic;
  options.read_only = false;
  options.without_backing = unsafe;
  if (arguments.has("t")) options.cache = HUSK_TRY(block::parse_cache_mode(arguments.get("t")));
  block::Node* node = HUSK_TRY(session.open(options));
  block::qcow2::Image* image = qcow2_of(*node);
  if (image == nullptr) return fail("the format '{}' has no backing files", node->driver());
  if (image->header().raw_external_data() && !backing.empty())
    return fail("a raw data file and a backing file do not go together");
  std::unique_ptr<block::Node> next;
  if (!unsafe) {
    block::Node* after = nullptr;
    if (!backing.empty()) {
      block::DiskOptions below = HUSK_TRY(source_options(arguments, block::resolve_path(arguments.names[0], backing)));
      below.format = format;
      below.read_only = true;
      if (same_file(below.path, arguments.names[0])) return fail("an image cannot be its own backing file");
      after = HUSK_TRY(session.open(below));
      for (block::Node* one = after; one != nullptr; one = one->backing())
        if (same_file(one->name(), arguments.names[0]))
          return fail("'{}' is in the chain of '{}' already", arguments.names[0], backing);
    }
    block::Node* before = node->backing();
    const std::uint64_t size = node->info().size;
    std::vector<std::uint8_t> old_bytes(kPiece), new_bytes(kPiece);
    for (std::uint64_t at = 0; at < size;) {
      session.progress(static_cast<double>(at) / static_cast<double>(size));
      const block::Extent extent = HUSK_TRY(session.status(*node, at, std::min(kPiece, size - at)));
      const std::uint64_t length = std::min(kPiece, extent.length);
      if (!extent.present) {
        const auto was = std::span(old_bytes).first(length), becomes = std::span(new_bytes).first(length);
        HUSK_TRY(read_or_zero(session, before, at, was));
        HUSK_TRY(read_or_zero(session, after, at, becomes));
        // What differs is kept by the image itself, cluster by cluster.
        const std::uint64_t grain = image->header().subcluster_size();
        for (std::uint64_t from = 0; from < length;) {
          const std::uint64_t to = std::min(length, align_down(at + from, grain) + grain - at);
          const auto part = was.subspan(from, to - from);
          if (std::memcmp(part.data(), becomes.data() + from, part.size()) != 0) {
            if (is_zero(part))
              HUSK_TRY(session.zero(*node, at + from, part.size(), core::BlockFlags::kMayUnmap));
            else
              HUSK_TRY(session.write(*node, at + from, part));
          }
          from = to;
        }
      }
      at += length;
    }
    HUSK_TRY(session.flush(*node));
    if (after != nullptr) next = session.release(after);
  }
  std::unique_ptr<block::Node> former = image->release_backing();
  HUSK_TRY(run_image(session, [&](auto done) {
    image->change_backing(std::move(next), backing, backing.empty() ? "" : format, std::move(done));
  }));
  HUSK_TRY(session.close(node));
  if (former) HUSK_TRY(block::close_node(session.context(), *former));
  session.end_progress();
  return 0;
}

Result<int> command_compare(Session& session, const Arguments& arguments) {
  block::Node* one = HUSK_TRY(session.open(HUSK_TRY(source_options(arguments, arguments.names[0], "f"))));
  block::Node* two = HUSK_TRY(session.open(HUSK_TRY(source_options(arguments, arguments.names[1], "F"))));
  const bool strict = arguments.has("s");
  const std::uint64_t size_one = one->info().size, size_two = two->info().size, size = std::max(size_one, size_two);
  if (strict && size_one != size_two) {
    session.print("Strict mode: Image size mismatch!\n");
    return 1;
  }
  std::vector<std::uint8_t> bytes_one(kPiece), bytes_two(kPiece);
  const auto origin_of = [&](block::Node& node, std::uint64_t at, std::uint64_t length) -> Result<Origin> {
    if (at < node.info().size) return find_origin(session, node, at, std::min(length, node.info().size - at));
    return Origin{{.length = length, .present = false, .zero = true}, 0, &node};
  };
  bool warned = false;
  for (std::uint64_t at = 0; at < size;) {
    session.progress(static_cast<double>(at) / static_cast<double>(size));
    const Origin a = HUSK_TRY(origin_of(*one, at, std::min(kPiece, size - at)));
    const Origin b = HUSK_TRY(origin_of(*two, at, std::min(kPiece, size - at)));
    const std::uint64_t length = std::min(a.extent.length, b.extent.length);
    if (!warned && at + length > std::min(size_one, size_two)) {
      session.print("Warning: Image size mismatch!\n");
      warned = true;
    }
    if (strict && at < size_one && at < size_two && a.extent.present != b.extent.present) {
      session.print("Strict mode: Offset {} block status mismatch!\n", at);
      return 1;
    }
    const auto zero = [](const Origin& origin) { return origin.extent.zero || !origin.extent.present; };
    if (!zero(a) || !zero(b)) {
      const auto left = std::span(bytes_one).first(length), right = std::span(bytes_two).first(length);
      HUSK_TRY(read_or_zero(session, one, at, left));
      HUSK_TRY(read_or_zero(session, two, at, right));
      const auto [where, other] = std::mismatch(left.begin(), left.end(), right.begin());
      if (where != left.end()) {
        const std::uint64_t offset = at + static_cast<std::uint64_t>(where - left.begin());
        // qemu-img names the sector.
        session.print("Content mismatch at offset {}!\n", align_down<std::uint64_t>(offset, 512));
        return 1;
      }
    }
    at += length;
  }
  HUSK_TRY(session.close(one));
  HUSK_TRY(session.close(two));
  session.end_progress();
  session.print("Images are identical.\n");
  return 0;
}

Result<int> command_bench(Session& session, const Arguments& arguments) {
  const auto number = [&](const char* option, std::uint64_t otherwise, std::uint64_t most) -> Result<std::uint64_t> {
    return arguments.has(option) ? parse_number(arguments.get(option), option, most) : Result<std::uint64_t>(otherwise);
  };
  const auto size_of = [&](const char* option, std::uint64_t otherwise) -> Result<std::uint64_t> {
    return arguments.has(option) ? parse_size(arguments.get(option), option) : Result<std::uint64_t>(otherwise);
  };
  const std::uint64_t count = HUSK_TRY(number("c", 75000, INT32_MAX));
  const std::uint64_t depth = HUSK_TRY(number("d", 64, 65536));
  const std::uint64_t length = HUSK_TRY(size_of("s", 4096));
  const std::uint64_t step = arguments.has("S") ? HUSK_TRY(size_of("S", 0)) : length;
  const std::uint64_t start = HUSK_TRY(size_of("o", 0));
  const std::uint64_t flush_interval = HUSK_TRY(number("flush-interval", 0, INT32_MAX));
  const std::uint64_t pattern = HUSK_TRY(number("pattern", 0, 255));
  const bool writes = arguments.has("w");
  if (depth == 0 || length == 0 || length > (1u << 30))
    return fail("the depth and the size must not be 0, nor the size above 1G");
  if (flush_interval != 0 && !writes) return fail("--flush-interval goes with -w");
  if (flush_interval != 0 && flush_interval < depth) return fail("--flush-interval must be at least the depth");
  block::DiskOptions options = HUSK_TRY(source_options(arguments, arguments.names[0]));
  options.read_only = !writes;
  if (arguments.has("t"))
    options.cache = HUSK_TRY(block::parse_cache_mode(arguments.get("t")));
  else if (arguments.has("n"))
    options.cache = block::CacheMode::none;
  block::Node* node = HUSK_TRY(session.open(options));
  const std::uint64_t size = node->info().size;
  if (size < length) return fail("the image has {} bytes, less than a request's {}", size, length);
  session.print("Sending {} {} requests, {} bytes each, {} in parallel (starting at offset {}, step size {})\n", count,
                writes ? "write" : "read", length, depth, start, step);
  if (flush_interval != 0)
    session.print("Sending flush every {} {}requests\n", flush_interval, arguments.has("no-drain") ? "" : "drained ");
  const std::size_t stride = align_up<std::size_t>(length, 4096);
  std::unique_ptr<std::uint8_t, void (*)(void*)> memory(
      static_cast<std::uint8_t*>(std::aligned_alloc(4096, stride * depth)), std::free);
  if (!memory) return fail("no memory for {} buffers of {} bytes", depth, length);
  std::memset(memory.get(), static_cast<int>(pattern), stride * depth);
  std::vector<core::BlockSpan> spans;
  std::vector<std::size_t> idle;
  for (std::size_t i = 0; i < depth; ++i) {
    spans.emplace_back(memory.get() + i * stride, length);
    idle.push_back(i);
  }
  std::uint64_t sent = 0, ended = 0, flushed_at = 0, offset = start % (size - length + 1);
  int error = 0;
  bool flushing = false;
  const std::uint64_t begun = host::monotonic_now();
  while (ended < count && error == 0) {
    node->begin_batch();
    while (sent < count && !idle.empty() && error == 0 && !(flushing && !arguments.has("no-drain"))) {
      if (flush_interval != 0 && sent - flushed_at >= flush_interval) {
        if (!arguments.has("no-drain") && sent != ended) break;
        flushed_at = sent;
        flushing = true;
        node->submit({.op = core::BlockOp::flush,
                      .flags = 0,
                      .offset = 0,
                      .length = 0,
                      .spans = {},
                      .completion = [&](int result) {
                        flushing = false;
                        if (result != 0) error = result;
                      }});
        continue;
      }
      const std::size_t slot = idle.back();
      idle.pop_back();
      ++sent;
      const std::uint64_t at = offset;
      offset += step;
      if (offset > size - length) offset %= size - length + 1;
      node->submit({.op = writes ? core::BlockOp::write : core::BlockOp::read,
                    .flags = 0,
                    .offset = at,
                    .length = length,
                    .spans = {&spans[slot], 1},
                    .completion = [&, slot](int result) {
                      idle.push_back(slot);
                      ++ended;
                      if (result != 0) error = result;
                    }});
    }
    node->end_batch();
    if (ended < count && (ended < sent || flushing)) session.loop().run_once();
  }
  while (ended < sent || flushing) session.loop().run_once();
  const std::uint64_t spent = host::monotonic_now() - begun;
  HUSK_TRY(session.close(node));
  if (error != 0)
    return fail_errno(error, fmt::format("cannot {} '{}'", writes ? "write" : "read", arguments.names[0]));
  session.print("Run completed in {:.3f} seconds.\n", static_cast<double>(spent) / 1e9);
  return 0;
}

}  // namespace husk::app::img
