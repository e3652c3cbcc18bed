// husk: a disk in memory that completes requests at once or when told, and fails when told
#pragma once

#include <cerrno>
#include <cstring>
#include <deque>
#include <vector>

#include "base/bits.h"
#include "core/block_backend.h"

namespace husk::testing {

class FakeBlock final : public core::BlockBackend {
 public:
  explicit FakeBlock(std::size_t size) : content(size) {}
  core::BlockInfo info() const override {
    return {.size = content.size(),
            .alignment = 1,
            .optimal_io = 0,
            .discard_unit = 512,
            .read_only = read_only,
            .can_discard = true,
            .fast_zeroes = true,
            .volatile_cache = true};
  }
  void submit(core::BlockRequest request) override {
    log.push_back({request.op, request.flags, request.offset, request.length});
    if (hold)
      held.push_back(std::move(request));
    else
      perform(std::move(request));
  }
  void drain(std::move_only_function<void()> done) override {
    while (!held.empty()) complete();
    done();
  }
  void set_resized(std::function<void()> resized) override { resized_ = std::move(resized); }
  void resize(std::size_t size) {
    content.resize(size);
    if (resized_) resized_();
  }
  /// Performs one held request.
  void complete(std::size_t index = 0) {
    core::BlockRequest request = std::move(held[index]);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    perform(std::move(request));
  }

  struct Entry {
    core::BlockOp op;
    std::uint32_t flags;
    std::uint64_t offset, length;
  };
  std::vector<std::uint8_t> content;
  std::vector<Entry> log;
  std::deque<core::BlockRequest> held;
  bool hold = false;
  bool read_only = false;
  int fail_with = 0;  ///< errno of all requests from now on

 private:
  void perform(core::BlockRequest request) {
    int error = fail_with;
    if (request.op != core::BlockOp::flush && !range_within(request.offset, request.length, content.size()))
      error = EINVAL;
    if (!error) {
      std::uint8_t* at = content.data() + request.offset;
      for (const core::BlockSpan& span : request.spans) {
        if (request.op == core::BlockOp::read) std::memcpy(span.data(), at, span.size());
        if (request.op == core::BlockOp::write) std::memcpy(at, span.data(), span.size());
        at += span.size();
      }
      if (request.op == core::BlockOp::write_zeroes || request.op == core::BlockOp::discard)
        std::memset(content.data() + request.offset, 0, request.length);
    }
    request.completion(error);
  }
  std::function<void()> resized_;
};

}  // namespace husk::testing
