// husk: fuzz target: the 9P server, asked anything by a hostile guest, over a small directory of its own
#include <fcntl.h>
#include <sys/stat.h>

#include <array>
#include <cstdint>
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

/// What the fields of a message are: f: a fid, n: a name, s: any string, 1, 2, 4, 8: numbers, o: flags of open, m: a
/// mode, w: a list of names, d: data behind their length.
struct Shape {
  std::uint8_t type;
  const char* fields;
};
constexpr Shape kShapes[] = {
    {8, "f"},       {12, "fo"},         {14, "fnom4"}, {16, "fns4"}, {18, "fnm444"}, {20, "ffn"}, {22, "f"},
    {24, "f8"},     {26, "f4m4488888"}, {30, "ffn"},   {32, "fn84"}, {40, "f84"},    {50, "f4"},  {52, "f14884s"},
    {54, "f1884s"}, {70, "ffn"},        {72, "fnm4"},  {74, "fnfn"}, {76, "fn4"},    {100, "4s"}, {104, "ffsn4"},
    {108, "2"},     {110, "ffw"},       {116, "f84"},  {118, "f8d"}, {120, "f"},     {122, "f"},
};

void run(const Place& place, Input input) {
  place.refill();
  Log log;
  const std::uint8_t choice = input.byte();
  auto server = hostfs::Server::create({.root = (place.base / "share").string(),
                                        .read_only = (choice & 1) != 0,
                                        .extended_attributes = (choice & 2) == 0,
                                        .host_locks = (choice & 4) == 0,
                                        .most_descriptors = 64},
                                       log);
  HUSK_CHECK(server.has_value());
  mem::LockDomain domain;
  const auto port = (*server)->attach_ninep(domain);
  std::vector<std::uint8_t> request, answer(9000);
  const auto put = [&](std::uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) request.push_back(static_cast<std::uint8_t>(value >> (i * 8)));
  };
  const auto put_text = [&](std::string_view text) {
    put(text.size(), 2);
    request.insert(request.end(), text.begin(), text.end());
  };
  const auto ask = [&](std::size_t room) {
    const std::size_t split = std::min<std::size_t>(request.size(), 23);
    std::vector<core::ShareSpan> in = {{request.data(), split}, {request.data() + split, request.size() - split}};
    std::vector<core::ShareSpan> out = {{answer.data(), std::min<std::size_t>(room, 11)},
                                        {answer.data() + 11, room - std::min<std::size_t>(room, 11)}};
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
    HUSK_CHECK(written && *written <= room && (*written == 0 || *written >= 7));
    if (*written == 0) return;
    HUSK_CHECK(load_le<std::uint32_t>(answer.data()) == *written);
    HUSK_CHECK(!has_secret(std::span(answer).first(*written)));
  };
  const auto begin = [&](std::uint8_t type) {
    request.assign(7, 0);
    request[4] = type;
  };
  const auto finish = [&](int damage) {
    store_le<std::uint32_t>(request.data(), static_cast<std::uint32_t>(static_cast<int>(request.size()) + damage));
  };
  begin(100), put(8192, 4), put_text("9P2000.L"), finish(0);
  ask(64);
  begin(104), put(0, 4), put(~0u, 4), put_text(""), put_text(""), put(0, 4), finish(0);
  ask(64);
  for (unsigned round = 0; round < 200 && input.more(); ++round) {
    const std::uint8_t which = input.byte();
    if (which == 254) (void)port->load(port->save());
    if (which == 255) (void)port->load(input.take(64));
    const Shape& shape = kShapes[which % std::size(kShapes)];
    begin(which == 253 ? input.byte() : shape.type);
    const auto name = [&] {
      static constexpr const char* kNames[] = {"a",      "d",      "e", "l",     "new", "..",   "../secret",
                                               "user.x", "secret", "",  "d/e/x", ".",   "other"};
      put_text(kNames[input.byte() % std::size(kNames)]);
    };
    for (const char* field = shape.fields; *field; ++field) switch (*field) {
        case 'f': put(input.byte() % 8, 4); break;
        case 'n': name(); break;
        case 's': {
          const auto bytes = input.take(input.byte() % 40);
          put_text({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
          break;
        }
        case 'o': {
          static constexpr std::uint32_t kFlags[] = {
              O_RDONLY,        O_RDWR,          O_WRONLY | O_TRUNC, O_RDWR | O_APPEND,
              O_RDWR | O_EXCL, O_RDWR | O_SYNC, O_DIRECTORY,        ~0u};
          put(kFlags[input.byte() % std::size(kFlags)], 4);
          break;
        }
        case 'm': {
          static constexpr std::uint32_t kModes[] = {0644,           0755,           S_IFREG | 0600, S_IFIFO | 0600,
                                                     S_IFCHR | 0600, S_IFBLK | 0600, 07777,          S_IFSOCK | 0600};
          put(kModes[input.byte() % std::size(kModes)], 4);
          break;
        }
        case 'w': {
          const unsigned count = input.byte() % 5;
          put(count, 2);
          for (unsigned i = 0; i < count; ++i) name();
          break;
        }
        case 'd': {
          const auto bytes = input.take(input.byte());
          put(bytes.size(), 4);
          request.insert(request.end(), bytes.begin(), bytes.end());
          break;
        }
        case '1': put(input.byte() % 4, 1); break;
        case '2': put(input.byte(), 2); break;
        case '4': {
          const std::uint8_t small = input.byte();
          put(small == 255 ? 0xFFFFFFFFu : std::uint32_t{small} << (small & 8), 4);
          break;
        }
        case '8': {
          const std::uint8_t small = input.byte();
          put(small == 255 ? ~std::uint64_t{0} : std::uint64_t{small} << (small & 16), 8);
          break;
        }
        default: break;
      }
    const std::uint8_t damage = input.byte();
    if (damage == 255 && !request.empty()) request.resize(7 + (request.size() - 7) / 2);
    finish(damage == 254 ? 1 : damage == 253 ? -1 : 0);
    ask(damage == 252 ? 11 : damage == 251 ? 30 : 8192);
  }
  {
    const mem::DomainGuard guard(&domain);
    port->reset();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Place place;
  if (has_secret({data, size})) return 0;
  run(place, Input({data, size}));
  return 0;
}
