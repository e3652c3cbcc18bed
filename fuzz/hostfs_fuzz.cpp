// husk: fuzz target: the FUSE server, asked anything by a hostile guest, over a small directory of its own
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bits.h"
#include "base/check.h"
#include "hostfs/server.h"
#include "share_place.h"

namespace {

using namespace husk;

using fuzz::has_secret, fuzz::Input, fuzz::Place;

void run(const Place& place, Input input) {
  place.refill();
  Log log;
  const std::uint8_t choice = input.byte();
  auto server = hostfs::Server::create({.root = (place.base / "share").string(),
                                        .read_only = (choice & 1) != 0,
                                        .negative_timeout_ns = choice & 2 ? 1u : 0u,
                                        .trust_cache = (choice & 4) != 0,
                                        .host_locks = (choice & 8) == 0,
                                        .most_descriptors = 64},
                                       log);
  HUSK_CHECK(server.has_value());
  mem::LockDomain domain;
  const auto port = (*server)->attach(domain);
  // Numbers that the server has given out: nodes and handles.
  std::vector<std::uint64_t> numbers = {1, 0};
  std::vector<std::uint8_t> request, answer(9000);
  const auto ask = [&](std::size_t room) {
    const std::size_t split = std::min<std::size_t>(request.size(), 40);
    std::vector<core::ShareSpan> in = {{request.data(), split}, {request.data() + split, request.size() - split}};
    std::vector<core::ShareSpan> out = {{answer.data(), std::min<std::size_t>(room, 16)},
                                        {answer.data() + 16, room - std::min<std::size_t>(room, 16)}};
    std::optional<std::uint64_t> written;
    core::ShareRequest one;
    one.in = in;
    one.out = out;
    one.completion = [&](std::uint64_t bytes) { written = bytes; };
    {
      const mem::DomainGuard guard(&domain);
      port->submit(std::move(one));
    }
    port->drain();
    HUSK_CHECK(written && *written <= room);
    if (*written < 16) return std::size_t{0};
    HUSK_CHECK(load_le<std::uint32_t>(answer.data()) == *written);
    HUSK_CHECK(!has_secret(std::span(answer).first(*written)));
    return static_cast<std::size_t>(*written);
  };
  const auto put = [&](std::uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) request.push_back(static_cast<std::uint8_t>(value >> (i * 8)));
  };
  const auto number = [&](std::uint8_t which) { return numbers[which % numbers.size()]; };
  // INIT with everything that there is.
  put(40 + 16, 4), put(26, 4), put(1, 8), put(0, 8), put(0, 8), put(0, 8);
  put(7, 4), put(38, 4), put(65536, 4), put(0xFFFFFFFF & ~(1u << 30), 4);
  ask(80);
  for (unsigned round = 0; round < 200 && input.more(); ++round) {
    request.clear();
    const std::uint8_t op = input.byte();
    const std::uint64_t node = number(input.byte());
    // Arguments: bytes as they are, among which numbers given out before, names and terminating zeroes.
    std::vector<std::uint8_t> args;
    for (std::uint8_t parts = input.byte() % 12; parts; --parts) {
      const std::uint8_t what = input.byte();
      const auto add = [&](std::uint64_t value, unsigned size) {
        for (unsigned i = 0; i < size; ++i) args.push_back(static_cast<std::uint8_t>(value >> (i * 8)));
      };
      static constexpr const char* kNames[] = {"a", "d", "e", "l", "new", "..", "../secret", "user.x", "secret", ""};
      switch (what % 6) {
        case 0: add(number(input.byte()), 8); break;
        case 1: {
          const char* const name = kNames[(what / 6) % std::size(kNames)];
          args.insert(args.end(), name, name + std::strlen(name) + 1);
          break;
        }
        case 2: add(input.byte(), 4); break;
        case 3: add(input.byte(), 8); break;
        case 4: add(std::uint64_t{input.byte()} << (what / 6), 4); break;
        default: {
          const auto bytes = input.take(what / 6);
          args.insert(args.end(), bytes.begin(), bytes.end());
        }
      }
    }
    const std::uint8_t damage = input.byte();
    put(40 + args.size() + (damage == 255 ? 1 : 0), 4), put(op % 56, 4), put(round + 2, 8), put(node, 8);
    put(::geteuid(), 4), put(::getegid(), 4), put(1, 4), put(0, 4);
    request.insert(request.end(), args.begin(), args.end());
    const std::size_t written = ask(damage == 254 ? 20 : 4096);
    // Entries and handles are at known places; whatever is there is a number worth using.
    if (written >= 24 && numbers.size() < 64) numbers.push_back(load_le<std::uint64_t>(&answer[16]));
    if (written >= 16 + 144 && numbers.size() < 64) numbers.push_back(load_le<std::uint64_t>(&answer[16 + 128]));
    if (op == 200) (void)port->load(port->save());
    if (op == 201) (void)port->load(args);
  }
  port->reset();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Place place;
  if (has_secret({data, size})) return 0;
  run(place, Input({data, size}));
  return 0;
}
