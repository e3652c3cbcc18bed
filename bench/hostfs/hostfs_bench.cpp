// husk: benchmark: what a FUSE request costs in the server, without a device or a guest
#include <benchmark/benchmark.h>
#include <stdlib.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/bits.h"
#include "base/check.h"
#include "hostfs/server.h"

namespace {

using namespace husk;

/// A share of 1,000 files of 64 KiB in a directory of /dev/shm or /tmp, and one request at a time.
class Share {
 public:
  Share() {
    std::string pattern = std::filesystem::exists("/dev/shm") ? "/dev/shm/husk-bench-XXXXXX" : "/tmp/husk-bench-XXXXXX";
    HUSK_CHECK(::mkdtemp(pattern.data()));
    base_ = pattern;
    for (int i = 0; i < 1000; ++i) std::ofstream(base_ / ("f" + std::to_string(i))) << std::string(65536, 'x');
    server_ = std::move(*hostfs::Server::create({.root = base_.string()}, log_));
    port_ = server_->attach(domain_);
    const std::uint32_t init[] = {7, 38, 65536, 0xBFFFFFFF};
    ask(26, 0, {reinterpret_cast<const char*>(init), sizeof init});
  }
  ~Share() {
    port_->drain();
    port_.reset();
    server_.reset();
    std::filesystem::remove_all(base_);
  }
  /// The results, behind the header.
  const std::uint8_t* ask(std::uint32_t op, std::uint64_t node, std::string_view args) {
    request_.assign(40, 0);
    store_le<std::uint32_t>(&request_[0], static_cast<std::uint32_t>(40 + args.size()));
    store_le<std::uint32_t>(&request_[4], op);
    store_le<std::uint64_t>(&request_[8], 2);
    store_le<std::uint64_t>(&request_[16], node);
    request_.insert(request_.end(), args.begin(), args.end());
    const core::ShareSpan in(request_), out(answer_);
    core::ShareRequest one;
    one.in = {&in, 1};
    one.out = {&out, 1};
    std::atomic<bool> done = false;
    one.completion = [&](std::uint64_t) {
      done = true;
      done.notify_all();
    };
    {
      const mem::DomainGuard guard(&domain_);
      port_->submit(std::move(one));
    }
    done.wait(false);
    HUSK_CHECK(load_le<std::uint32_t>(&answer_[4]) == 0);
    return &answer_[16];
  }
  std::uint64_t look_up(const std::string& name) {
    return load_le<std::uint64_t>(ask(1, 1, {name.c_str(), name.size() + 1}));
  }

 private:
  std::filesystem::path base_;
  Log log_;
  mem::LockDomain domain_;
  std::unique_ptr<hostfs::Server> server_;
  std::unique_ptr<core::ShareBackend> port_;
  std::vector<std::uint8_t> request_, answer_ = std::vector<std::uint8_t>(1 << 20);
};

std::string numbers(std::initializer_list<std::uint64_t> values) {
  std::string bytes;
  for (const std::uint64_t value : values)
    for (unsigned i = 0; i < 8; ++i) bytes.push_back(static_cast<char>(value >> (8 * i)));
  return bytes;
}

void look_up(benchmark::State& state) {
  Share share;
  unsigned i = 0;
  for (auto _ : state) benchmark::DoNotOptimize(share.look_up("f" + std::to_string(i++ % 1000)));
}
BENCHMARK(look_up);

void get_attributes(benchmark::State& state) {
  Share share;
  const std::uint64_t node = share.look_up("f1");
  for (auto _ : state) share.ask(3, node, numbers({0, 0}));
}
BENCHMARK(get_attributes);

void open_and_release(benchmark::State& state) {
  Share share;
  const std::uint64_t node = share.look_up("f1");
  for (auto _ : state) {
    const std::uint64_t handle = load_le<std::uint64_t>(share.ask(14, node, numbers({0})));
    share.ask(18, node, numbers({handle, 0, 0}));
  }
}
BENCHMARK(open_and_release);

void read(benchmark::State& state) {
  Share share;
  const std::uint64_t node = share.look_up("f1");
  const std::uint64_t handle = load_le<std::uint64_t>(share.ask(14, node, numbers({0})));
  const auto size = static_cast<std::uint64_t>(state.range(0));
  for (auto _ : state) share.ask(15, node, numbers({handle, 0, size, 0, 0}));
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * state.range(0));
}
BENCHMARK(read)->Arg(4096)->Arg(65536);

}  // namespace
