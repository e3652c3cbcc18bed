// husk: benchmark: what a request costs in each layer, without the kernel (over memory) and with it
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "block/context.h"
#include "block/file.h"
#include "block/overlay.h"
#include "block/qcow2.h"
#include "block/qcow2_surgery.h"
#include "block/raw.h"

namespace {

using namespace husk;

constexpr std::uint64_t kSize = 256u << 20;
constexpr std::uint64_t kRequest = 4096;

struct Bed {
  Log log;
  std::unique_ptr<host::EventLoop> loop = host::EventLoop::create().value();
  std::unique_ptr<block::Context> context = block::Context::create(*loop, log).value();
  std::unique_ptr<block::Node> node;
  std::string file;
  ~Bed() {
    context->wait([&](core::BlockCompletion done) { node->close(std::move(done)); });
    node.reset();
    context.reset();
    if (!file.empty()) ::unlink(file.c_str());
  }
};

std::unique_ptr<block::Node> store(Bed& bed, bool in_memory) {
  if (in_memory) {
    auto memory = std::make_unique<block::Overlay>(nullptr, 0);
    memory->set_growable();
    return memory;
  }
  char name[] = "/tmp/husk-bench-XXXXXX";
  const int fd = ::mkstemp(name);
  ::close(fd);
  bed.file = name;
  return block::File::open(*bed.context, {.path = name}).value();
}

void open_raw(Bed& bed, bool in_memory) {
  auto file = store(bed, in_memory);
  bed.context->wait([&](core::BlockCompletion done) { file->resize(kSize, std::move(done)); });
  bed.node = block::Raw::open(std::move(file), {}).value();
}

void open_qcow2(Bed& bed, bool in_memory) {
  auto file = store(bed, in_memory);
  block::qcow2::Disk disk(*bed.context, *file);
  block::qcow2::CreateOptions options;
  options.size = kSize;
  if (!block::qcow2::create(disk, options)) std::abort();
  auto header = block::qcow2::read_header(disk).value();
  bed.node = block::qcow2::Image::open(*bed.context, std::move(file), header, nullptr, nullptr, {}).value();
}

/// Arguments: memory (1) or file (0), write, queue depth.
void run(benchmark::State& state, void (*open)(Bed&, bool)) {
  Bed bed;
  open(bed, state.range(0) != 0);
  const bool writes = state.range(1) != 0;
  const auto depth = static_cast<unsigned>(state.range(2));
  std::vector<std::uint8_t> bytes(1 << 20, 1);
  const core::BlockSpan whole = bytes;
  for (std::uint64_t at = 0; at < kSize; at += bytes.size())
    bed.context->wait([&](core::BlockCompletion done) {
      bed.node->submit({.op = core::BlockOp::write,
                        .flags = 0,
                        .offset = at,
                        .length = bytes.size(),
                        .spans = {&whole, 1},
                        .completion = std::move(done)});
    });
  const core::BlockSpan span(bytes.data(), kRequest);
  std::uint64_t at = 0;
  unsigned pending = 0;
  for (auto _ : state) {
    bed.node->begin_batch();
    while (pending < depth) {
      ++pending;
      at = (at + 69'632) % (kSize - kRequest) & ~std::uint64_t{4095};
      bed.node->submit({.op = writes ? core::BlockOp::write : core::BlockOp::read,
                        .flags = 0,
                        .offset = at,
                        .length = kRequest,
                        .spans = {&span, 1},
                        .completion = [&pending](int) { --pending; }});
      // Over memory a request is done when submit() returns.
      if (pending == 0) break;
    }
    bed.node->end_batch();
    if (pending > 0) bed.loop->run_once();
  }
  while (pending > 0) bed.loop->run_once();
}

void Raw(benchmark::State& state) { run(state, open_raw); }
void Qcow2(benchmark::State& state) { run(state, open_qcow2); }
// Over memory an iteration is one request; over a file it is one round of the loop.
BENCHMARK(Raw)
    ->ArgNames({"memory", "write", "depth"})
    ->Args({1, 0, 1})
    ->Args({1, 1, 1})
    ->Args({0, 0, 1})
    ->Args({0, 1, 1});
BENCHMARK(Qcow2)
    ->ArgNames({"memory", "write", "depth"})
    ->Args({1, 0, 1})
    ->Args({1, 1, 1})
    ->Args({0, 0, 1})
    ->Args({0, 1, 1});

}  // namespace
