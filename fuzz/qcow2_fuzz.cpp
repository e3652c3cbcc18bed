// husk: fuzz target: a qcow2 image of any bytes is opened, read, written, checked and repaired
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "base/bits.h"
#include "block/context.h"
#include "block/overlay.h"
#include "block/qcow2.h"
#include "block/qcow2_surgery.h"
#include "host/event_loop.h"

namespace {

using namespace husk;
using block::qcow2::Disk;
using block::qcow2::Image;

int request(block::Context& context, block::Node& node, core::BlockOp op, std::uint64_t offset,
            std::vector<std::uint8_t>& bytes, std::uint64_t length) {
  const core::BlockSpan span(bytes.data(), length);
  return context.wait([&](core::BlockCompletion done) {
    node.submit({.op = op,
                 .flags = 0,
                 .offset = offset,
                 .length = length,
                 .spans = op == core::BlockOp::read || op == core::BlockOp::write ? std::span(&span, 1)
                                                                                  : std::span<const core::BlockSpan>{},
                 .completion = std::move(done)});
  });
}

}  // namespace

// The input is a list of patches to an image that is zero else: most of an image is, and so a small input reaches far.
// First a byte of flags and one for the requests; then {offset: 3 bytes, in units of 8, 4 MiB at most; length: 1 byte;
// content}. Tables may be as long as the file, so that a larger one costs time and shows nothing more.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 4) return 0;
  const std::uint8_t how = data[0], seed = data[1];
  auto loop = host::EventLoop::create().value();
  Log log;
  auto context = block::Context::create(*loop, log, block::EngineChoice::threads).value();
  auto memory = std::make_unique<block::Overlay>(nullptr, 0);
  memory->set_growable();
  std::vector<std::uint8_t> piece(256);
  for (std::size_t at = 2; at + 4 <= size;) {
    const std::uint64_t offset = (data[at] | std::uint64_t{data[at + 1]} << 8 | (data[at + 2] & 7u) << 16) * 8;
    const std::size_t length = std::min<std::size_t>(data[at + 3] + std::size_t{1}, size - at - 4);
    at += 4;
    if (length == 0) break;
    std::memcpy(piece.data(), data + at, length);
    at += length;
    request(*context, *memory, core::BlockOp::write, offset, piece, length);
  }
  Disk disk(*context, *memory);
  auto header = block::qcow2::read_header(disk);
  if (!header) return 0;
  header->incompatible &= ~block::qcow2::kExternalData;
  if (how & 1) {
    if (auto meta = block::qcow2::read_metadata(disk, *header))
      (void)block::qcow2::check(disk, *meta,
                                how & 2   ? block::qcow2::Repair::all
                                : how & 4 ? block::qcow2::Repair::leaks
                                          : block::qcow2::Repair::none);
    header = block::qcow2::read_header(disk);
    if (!header) return 0;
    header->incompatible &= ~block::qcow2::kExternalData;
  }
  block::qcow2::ImageOptions options;
  options.read_only = (how & 8) != 0;
  options.l2_cache = 1;
  auto image = Image::open(*context, std::move(memory), *header, nullptr, nullptr, options);
  if (!image) return 0;
  const std::uint64_t disk_size = (*image)->info().size;
  std::vector<std::uint8_t> bytes(70'000, 0x5a);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15 + 1;
  for (int step = 0; step < 12 && disk_size > 0; ++step) {
    state = state * 6364136223846793005 + 1442695040888963407;
    const std::uint64_t offset = step % 3 == 0 ? 0 : (state >> 20) % disk_size;
    const std::uint64_t length = std::min<std::uint64_t>(disk_size - offset, 1 + (state >> 40) % (bytes.size() - 1));
    static constexpr core::BlockOp kOps[] = {core::BlockOp::read,    core::BlockOp::write, core::BlockOp::write_zeroes,
                                             core::BlockOp::discard, core::BlockOp::read,  core::BlockOp::flush};
    request(*context, **image, kOps[(state >> 33) % 6], offset, bytes, length);
  }
  if (how & 16) {
    context->wait([&](core::BlockCompletion done) {
      auto finished = [done = std::move(done)](Status) mutable { done(0); };
      if (how & 32)
        (*image)->create_snapshot("x", std::move(finished));
      else if (how & 64)
        (*image)->apply_snapshot("1", std::move(finished));
      else
        (*image)->delete_snapshot("1", std::move(finished));
    });
  }
  context->wait([&](core::BlockCompletion done) { (*image)->close(std::move(done)); });
  return 0;
}
