// husk: a FUSE server that answers with what it was asked, at once or when told
#pragma once

#include <cstring>
#include <deque>
#include <vector>

#include "core/share_backend.h"

namespace husk::testing {

class FakeShare final : public core::ShareBackend {
 public:
  void submit(core::ShareRequest request) override {
    std::vector<std::uint8_t> bytes;
    for (const core::ShareSpan& span : request.in) bytes.insert(bytes.end(), span.begin(), span.end());
    requests.push_back(std::move(bytes));
    if (hold)
      held.push_back({requests.back(), std::move(request)});
    else
      answer({requests.back(), std::move(request)});
  }
  void reset() override {
    ++resets;
    session.clear();
  }
  void drain() override {
    while (!held.empty()) complete();
  }
  std::vector<std::uint8_t> save() override { return session; }
  Status load(std::span<const std::uint8_t> state) override {
    if (state.size() > kMostSession) return fail("the session is too long");
    session.assign(state.begin(), state.end());
    return {};
  }
  void complete(std::size_t index = 0) {
    Held one = std::move(held[index]);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(index));
    answer(std::move(one));
  }

  static constexpr std::size_t kMostSession = 1024;
  struct Held {
    std::vector<std::uint8_t> bytes;
    core::ShareRequest request;
  };
  std::vector<std::vector<std::uint8_t>> requests;
  std::deque<Held> held;
  std::vector<std::uint8_t> session;
  unsigned resets = 0;
  bool hold = false;

 private:
  /// As much of what was sent as fits.
  static void answer(Held one) {
    std::uint64_t written = 0;
    for (const core::ShareSpan& span : one.request.out) {
      const std::size_t count = std::min<std::size_t>(span.size(), one.bytes.size() - written);
      std::copy_n(one.bytes.begin() + static_cast<std::ptrdiff_t>(written), count, span.begin());
      written += count;
    }
    one.request.completion(written);
  }
};

}  // namespace husk::testing
