// husk: qcow2 after kill -9: nothing that was flushed is lost, and the image is whole
#include <signal.h>

#include <algorithm>
#include <cstring>

#include "block/disk_fixture.h"

namespace husk::block {
namespace {

using core::BlockOp;

constexpr std::uint64_t kDisk = 24u << 20;
constexpr std::uint64_t kRegion = 64 * 1024 / 4;  // odd against the cluster sizes on purpose

/// Told by the child through a pipe: how far it has come.
struct Note {
  std::uint64_t region;
  std::uint32_t generation;
  std::uint32_t flushed;  ///< 1: everything noted before is flushed
};

/// What the region holds after its n-th write.
void fill_region(std::span<std::uint8_t> bytes, std::uint64_t region, std::uint32_t generation) {
  for (std::size_t i = 0; i < bytes.size(); i += 16) {
    std::memcpy(&bytes[i], &region, 8);
    std::memcpy(&bytes[i + 8], &generation, 4);
    std::memcpy(&bytes[i + 12], &i, 4);
  }
}

/// Writes regions at random, several at once, with flushes, zeroes, snapshots and discards among them, until it is
/// killed.
[[noreturn]] void child_main(const std::string& file, int pipe, unsigned seed, bool snapshots) {
  auto loop = host::EventLoop::create().value();
  Log log;
  auto context = Context::create(*loop, log).value();
  auto opened = open_disk(*context, {.path = file});
  if (!opened) ::_exit(3);
  Node& node = **opened;
  std::mt19937_64 random(seed);
  std::vector<std::uint32_t> generations(kDisk / kRegion);
  std::vector<Bytes> buffers(8, Bytes(kRegion));
  std::vector<core::BlockSpan> spans(8);
  const auto say = [&](const Note& note) {
    if (::write(pipe, &note, sizeof note) != sizeof note) ::_exit(4);
  };
  for (;;) {
    std::vector<std::uint64_t> regions;
    while (regions.size() < 8) {
      const std::uint64_t region = random() % generations.size();
      if (std::find(regions.begin(), regions.end(), region) == regions.end()) regions.push_back(region);
    }
    unsigned pending = 0;
    for (std::size_t i = 0; i < regions.size(); ++i) {
      const std::uint64_t region = regions[i];
      const bool zero = random() % 6 == 0;
      // Generations of zeroes have the highest bit. The note comes first: what is noted may or may not be there.
      const std::uint32_t generation = ++generations[region] | (zero ? 0x80000000 : 0);
      say({region, generation, 0});
      fill_region(buffers[i], region, generation);
      spans[i] = buffers[i];
      ++pending;
      const std::span<const core::BlockSpan> data(&spans[i], 1);
      node.submit({.op = zero ? BlockOp::write_zeroes : BlockOp::write,
                   .flags = zero && random() % 2 ? core::BlockFlags::kMayUnmap : 0,
                   .offset = region * kRegion,
                   .length = kRegion,
                   .spans = zero ? std::span<const core::BlockSpan>{} : data,
                   .completion = [&pending](int error) {
                     if (error != 0) ::_exit(5);
                     --pending;
                   }});
    }
    while (pending > 0) loop->run_once();
    if (snapshots && random() % 8 == 0) {
      Status outcome;
      context->wait([&](core::BlockCompletion done) {
        auto finished = [&outcome, done = std::move(done)](Status status) mutable {
          outcome = std::move(status);
          done(0);
        };
        if (dynamic_cast<qcow2::Image&>(node).snapshots().empty())
          node.snapshotting()->create_snapshot("s", std::move(finished));
        else
          node.snapshotting()->delete_snapshot("s", std::move(finished));
      });
      if (!outcome) ::_exit(6);
    }
    if (random() % 3 == 0) {
      const int error = context->wait([&](core::BlockCompletion done) {
        node.submit(
            {.op = BlockOp::flush, .flags = 0, .offset = 0, .length = 0, .spans = {}, .completion = std::move(done)});
      });
      if (error != 0) ::_exit(7);
      say({0, 0, 1});
    }
  }
}

class Qcow2Crash : public DiskFixture, public ::testing::WithParamInterface<const char*> {};

TEST_P(Qcow2Crash, KeepsWhatWasFlushedAndStaysWhole) {
  // HUSK_CRASHES=500 for the long run.
  const char* wanted = std::getenv("HUSK_CRASHES");
  const int rounds = wanted != nullptr ? std::atoi(wanted) : 4;
  const std::string file = path("c.qcow2");
  const bool lazy = std::string(GetParam()).find("lazy") != std::string::npos;
  for (int round = 0; round < rounds; ++round) {
    std::mt19937 random(static_cast<unsigned>(round) * 7919 + static_cast<unsigned>(std::strlen(GetParam())));
    std::filesystem::remove(file);
    qemu_create(fmt::format("-f qcow2 {} {} {}", GetParam(), file, kDisk));
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(ends[0]);
      child_main(file, ends[1], static_cast<unsigned>(random()), round % 2 == 1);
    }
    ::close(ends[1]);
    // The child is killed after a number of notes, wherever it then is.
    const std::size_t most = 20 + random() % 600;
    std::vector<Note> notes;
    Note note{};
    while (notes.size() < most && ::read(ends[0], &note, sizeof note) == sizeof note) notes.push_back(note);
    for (std::uint64_t spin = random() % 20000; spin > 0; --spin) asm volatile("");
    ::kill(child, SIGKILL);
    while (::read(ends[0], &note, sizeof note) == sizeof note) notes.push_back(note);
    ::close(ends[0]);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << WEXITSTATUS(status);

    // An io_uring of a dead process ends its requests, and lets go of the file and its locks, a moment later.
    for (int tries = 0; tries < 1000 && !open_disk(*context_, {.path = file, .read_only = true}); ++tries)
      loop_->run_once(5'000'000);
    if (!lazy) expect_clean(file, true);
    auto node = open({.path = file});
    ASSERT_TRUE(node);
    // For each region: the generation at the last flush, and those noted since.
    struct Known {
      std::vector<std::uint32_t> possible{0};
    };
    std::vector<Known> known(kDisk / kRegion);
    for (const Note& n : notes) {
      if (n.flushed) {
        for (Known& k : known) k.possible.assign(1, k.possible.back());
      } else {
        known[n.region].possible.push_back(n.generation);
      }
    }
    Bytes expected(kRegion);
    for (std::uint64_t region = 0; region < known.size(); ++region) {
      const Bytes got = read(*node, region * kRegion, kRegion);
      // A write under way may have come through in part: 16 bytes are the unit that is compared.
      for (std::size_t i = 0; i < kRegion; i += 512) {
        bool found = false;
        for (const std::uint32_t generation : known[region].possible) {
          if (generation == 0 || (generation & 0x80000000))
            std::fill(expected.begin(), expected.end(), std::uint8_t{0});
          else
            fill_region(expected, region, generation);
          found = found || std::equal(got.begin() + static_cast<std::ptrdiff_t>(i),
                                      got.begin() + static_cast<std::ptrdiff_t>(i + 512),
                                      expected.begin() + static_cast<std::ptrdiff_t>(i));
        }
        ASSERT_TRUE(found) << GetParam() << " round " << round << " region " << region << " at " << i << " of "
                           << known[region].possible.size() << " generations, last " << known[region].possible.back();
      }
    }
    close(node);
    expect_clean(file, true);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, Qcow2Crash,
                         ::testing::Values("", "-o cluster_size=4k", "-o extended_l2=on",
                                           "-o compat=0.10,cluster_size=512", "-o lazy_refcounts=on",
                                           "-o cluster_size=1M"));

}  // namespace
}  // namespace husk::block
