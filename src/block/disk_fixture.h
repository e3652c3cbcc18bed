// husk: what the tests of disks share: a loop, a directory, a disk that is driven request by request, qemu-img
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "block/context.h"
#include "block/open.h"
#include "block/qcow2.h"
#include "block/qcow2_surgery.h"

namespace husk::block {

using Bytes = std::vector<std::uint8_t>;

struct CommandResult {
  int status;
  std::string output;
};

/// Runs a shell command; stdout and stderr together.
inline CommandResult run_command(const std::string& command) {
  CommandResult result{-1, {}};
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (std::size_t got; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    result.output.append(buffer.data(), got);
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

inline Bytes random_bytes(std::size_t count, unsigned seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(count);
  for (std::size_t i = 0; i < count; i += 8) {
    const std::uint64_t word = random();
    for (std::size_t j = i; j < std::min(i + 8, count); ++j)
      bytes[j] = static_cast<std::uint8_t>(word >> (8 * (j - i)));
  }
  return bytes;
}

class DiskFixture : public ::testing::Test {
 protected:
  DiskFixture() {
    std::string path = (std::filesystem::temp_directory_path() / "husk-disk-XXXXXX").string();
    EXPECT_NE(::mkdtemp(path.data()), nullptr);
    directory_ = path;
    loop_ = host::EventLoop::create().value();
    context_ = Context::create(*loop_, log_).value();
  }
  ~DiskFixture() override {
    context_.reset();
    std::filesystem::remove_all(directory_);
  }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  std::unique_ptr<Node> open(const DiskOptions& options) {
    auto node = open_disk(*context_, options);
    EXPECT_TRUE(node.has_value()) << (node ? "" : node.error().text());
    return node ? *std::move(node) : nullptr;
  }
  void close(std::unique_ptr<Node>& node) {
    const Status closed = close_node(*context_, *node);
    EXPECT_TRUE(closed.has_value()) << (closed ? "" : closed.error().text());
    node.reset();
  }

  int request(Node& node, core::BlockOp op, std::uint64_t offset, std::span<std::uint8_t> bytes, std::uint64_t length,
              std::uint32_t flags = 0) {
    const core::BlockSpan span = bytes;
    return context_->wait([&](core::BlockCompletion done) {
      node.submit({.op = op,
                   .flags = flags,
                   .offset = offset,
                   .length = length,
                   .spans = bytes.empty() ? std::span<const core::BlockSpan>{} : std::span(&span, 1),
                   .completion = std::move(done)});
    });
  }
  int write(Node& node, std::uint64_t offset, Bytes bytes, std::uint32_t flags = 0) {
    return request(node, core::BlockOp::write, offset, bytes, bytes.size(), flags);
  }
  int zero(Node& node, std::uint64_t offset, std::uint64_t length, std::uint32_t flags = 0) {
    return request(node, core::BlockOp::write_zeroes, offset, {}, length, flags);
  }
  int discard(Node& node, std::uint64_t offset, std::uint64_t length) {
    return request(node, core::BlockOp::discard, offset, {}, length);
  }
  int flush(Node& node) { return request(node, core::BlockOp::flush, 0, {}, 0); }
  Bytes read(Node& node, std::uint64_t offset, std::size_t length) {
    Bytes bytes(length, 0xee);
    EXPECT_EQ(request(node, core::BlockOp::read, offset, bytes, length), 0);
    return bytes;
  }

  static Bytes file_content(const std::string& file) {
    std::ifstream in(file, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  static void write_content(const std::string& file, const Bytes& bytes) {
    std::ofstream out(file, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }

  /// qemu-img must agree that the image is whole. Leaks are allowed only if asked for.
  static void expect_clean(const std::string& file, bool leaks_allowed = false) {
    const CommandResult result = run_command("qemu-img check -f qcow2 " + file);
    EXPECT_TRUE(result.status == 0 || (leaks_allowed && result.status == 3)) << result.status << "\n" << result.output;
  }
  /// What qemu-img reads from the disk.
  Bytes qemu_content(const std::string& file) {
    const std::string raw = path("qemu-content.raw");
    const CommandResult result = run_command("qemu-img convert -O raw " + file + " " + raw);
    EXPECT_EQ(result.status, 0) << result.output;
    return file_content(raw);
  }
  void qemu_create(const std::string& arguments) {
    const CommandResult result = run_command("qemu-img create -q " + arguments);
    ASSERT_EQ(result.status, 0) << result.output;
  }

  std::filesystem::path directory_;
  Log log_;
  std::unique_ptr<host::EventLoop> loop_;
  std::unique_ptr<Context> context_;
};

}  // namespace husk::block
