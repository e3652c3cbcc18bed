// husk: qcow2 images against qemu-img and against an array of bytes
#include <algorithm>
#include <deque>

#include <gmock/gmock.h>

#include "block/disk_fixture.h"

namespace husk::block {
namespace {

using core::BlockFlags;
using core::BlockOp;

class Qcow2 : public DiskFixture {
 protected:
  qcow2::Image& image(Node& node) { return dynamic_cast<qcow2::Image&>(node); }
  Status snapshot(Node& node, const std::string& action, const std::string& name) {
    Status outcome;
    context_->wait([&](core::BlockCompletion done) {
      auto finished = [&outcome, done = std::move(done)](Status status) mutable {
        outcome = std::move(status);
        done(0);
      };
      if (action == "create") node.snapshotting()->create_snapshot(name, std::move(finished));
      if (action == "apply") node.snapshotting()->apply_snapshot(name, std::move(finished));
      if (action == "delete") node.snapshotting()->delete_snapshot(name, std::move(finished));
    });
    return outcome;
  }
};

TEST_F(Qcow2, ReadsWhatQemuImgWrote) {
  const Bytes content = random_bytes(5'000'192, 1);
  write_content(path("a.raw"), content);
  for (const char* options : {"-o compat=0.10", "-o cluster_size=512", "-o cluster_size=2M", "-o extended_l2=on",
                              "-o refcount_bits=1", "-c", "-c -o compression_type=zstd", "-o lazy_refcounts=on"}) {
    const CommandResult made =
        run_command(fmt::format("qemu-img convert -O qcow2 {} {} {}", options, path("a.raw"), path("a.qcow2")));
    ASSERT_EQ(made.status, 0) << made.output;
    auto node = open({.path = path("a.qcow2"), .read_only = true});
    ASSERT_TRUE(node);
    EXPECT_EQ(node->driver(), "qcow2");
    EXPECT_EQ(node->info().size, content.size()) << options;
    EXPECT_EQ(read(*node, 0, content.size()), content) << options;
    EXPECT_EQ(read(*node, 123'457, 70'001), Bytes(content.begin() + 123'457, content.begin() + 193'458)) << options;
    close(node);
  }
}

TEST_F(Qcow2, QemuImgReadsWhatItWrites) {
  for (const char* options : {"-o compat=0.10", "-o cluster_size=512", "-o cluster_size=2M", "-o extended_l2=on",
                              "-o refcount_bits=1", "-o refcount_bits=64", "-o lazy_refcounts=on",
                              "-o preallocation=metadata", "-o preallocation=falloc,extended_l2=on"}) {
    qemu_create(fmt::format("-f qcow2 {} {} 9M", options, path("b.qcow2")));
    auto node = open({.path = path("b.qcow2")});
    ASSERT_TRUE(node);
    Bytes model(9 << 20);
    unsigned seed = 1;
    for (const auto& [offset, length] : {std::pair<std::size_t, std::size_t>{0, 512},
                                         {70'000, 200'000},
                                         {4 << 20, 1 << 20},
                                         {(9 << 20) - 1000, 1000},
                                         {100, 3'000'000}}) {
      const Bytes bytes = random_bytes(length, seed++);
      EXPECT_EQ(write(*node, offset, bytes), 0);
      std::copy(bytes.begin(), bytes.end(), model.begin() + static_cast<std::ptrdiff_t>(offset));
    }
    EXPECT_EQ(read(*node, 0, model.size()), model) << options;
    close(node);
    expect_clean(path("b.qcow2"));
    EXPECT_EQ(qemu_content(path("b.qcow2")), model) << options;
  }
}

TEST_F(Qcow2, GrowsItsRefcountTable) {
  // With clusters of 512 bytes and refcounts of 64 bits one block counts 32 KiB, one cluster of table 2 MiB.
  qemu_create(fmt::format("-f qcow2 -o cluster_size=512,refcount_bits=64 {} 20M", path("g.qcow2")));
  auto node = open({.path = path("g.qcow2")});
  const Bytes content = random_bytes(20 << 20, 7);
  for (std::size_t at = 0; at < content.size(); at += 1 << 20)
    ASSERT_EQ(write(*node, at,
                    Bytes(content.begin() + static_cast<std::ptrdiff_t>(at),
                          content.begin() + static_cast<std::ptrdiff_t>(at + (1 << 20)))),
              0);
  close(node);
  expect_clean(path("g.qcow2"));
  EXPECT_EQ(qemu_content(path("g.qcow2")), content);
}

TEST_F(Qcow2, ReadsThroughABackingChainOfAnyFormatAndSize) {
  const Bytes base = random_bytes(1'000'448, 3);
  write_content(path("base.raw"), base);
  qemu_create(fmt::format("-f qcow2 -F raw -b base.raw {} 2M", path("mid.qcow2")));
  qemu_create(fmt::format("-f qcow2 -F qcow2 -b mid.qcow2 -o cluster_size=4k {} 3M", path("top.qcow2")));
  Bytes model(3 << 20);
  std::copy(base.begin(), base.end(), model.begin());
  auto node = open({.path = path("top.qcow2")});
  ASSERT_TRUE(node);
  EXPECT_EQ(read(*node, 0, model.size()), model);
  const Bytes bytes = random_bytes(10'000, 4);
  EXPECT_EQ(write(*node, 999'000, bytes), 0);
  std::copy(bytes.begin(), bytes.end(), model.begin() + 999'000);
  EXPECT_EQ(zero(*node, 5'000, 50'000, BlockFlags::kMayUnmap), 0);
  std::fill_n(model.begin() + 5'000, 50'000, std::uint8_t{0});
  EXPECT_EQ(read(*node, 0, model.size()), model);
  close(node);
  expect_clean(path("top.qcow2"));
  EXPECT_EQ(qemu_content(path("top.qcow2")), model);
}

TEST_F(Qcow2, RefusesAChainThatLoops) {
  qemu_create(fmt::format("-f qcow2 {} 1M", path("one.qcow2")));
  qemu_create(fmt::format("-f qcow2 -F qcow2 -b one.qcow2 {} 1M", path("two.qcow2")));
  ASSERT_EQ(run_command(fmt::format("qemu-img rebase -u -F qcow2 -b two.qcow2 {}", path("one.qcow2"))).status, 0);
  const auto node = open_disk(*context_, {.path = path("two.qcow2")});
  ASSERT_FALSE(node.has_value());
  EXPECT_THAT(node.error().text(), ::testing::HasSubstr("loops"));
}

TEST_F(Qcow2, RefusesEncryptionByName) {
  qemu_create(fmt::format("-f qcow2 {} 1M", path("luks.qcow2")));
  Bytes bytes = file_content(path("luks.qcow2"));
  bytes[35] = 2;  // crypt_method
  write_content(path("luks.qcow2"), bytes);
  const auto node = open_disk(*context_, {.path = path("luks.qcow2")});
  ASSERT_FALSE(node.has_value());
  EXPECT_THAT(node.error().text(), ::testing::HasSubstr("LUKS"));
}

TEST_F(Qcow2, WritesCompressedClustersThatQemuReads) {
  for (const char* type : {"zlib", "zstd"}) {
    qemu_create(fmt::format("-f qcow2 -o compression_type={} {} 4M", type, path("c.qcow2")));
    auto node = open({.path = path("c.qcow2")});
    Bytes content(4 << 20);
    for (std::size_t i = 0; i < content.size(); ++i) content[i] = static_cast<std::uint8_t>(i / 1000 * (i % 7));
    const Bytes noise = random_bytes(128 * 1024, 8);  // does not compress
    std::copy(noise.begin(), noise.end(), content.begin() + (1 << 20));
    EXPECT_EQ(write(*node, 0, content, BlockFlags::kCompressed), 0);
    EXPECT_EQ(read(*node, 0, content.size()), content);
    // An ordinary write to a compressed cluster gives it an own one.
    EXPECT_EQ(write(*node, 70'000, Bytes(100, 0x55)), 0);
    std::fill_n(content.begin() + 70'000, 100, std::uint8_t{0x55});
    EXPECT_EQ(read(*node, 0, content.size()), content);
    close(node);
    expect_clean(path("c.qcow2"));
    EXPECT_LT(std::filesystem::file_size(path("c.qcow2")), 2u << 20);
    EXPECT_EQ(qemu_content(path("c.qcow2")), content);
  }
}

TEST_F(Qcow2, KeepsSnapshotsApartAsQemuDoes) {
  qemu_create(fmt::format("-f qcow2 {} 8M", path("s.qcow2")));
  auto node = open({.path = path("s.qcow2")});
  const Bytes first = random_bytes(3 << 20, 1), second = random_bytes(1 << 20, 2);
  EXPECT_EQ(write(*node, 0, first), 0);
  ASSERT_TRUE(snapshot(*node, "create", "one"));
  EXPECT_EQ(write(*node, 1000, second), 0);
  ASSERT_TRUE(snapshot(*node, "create", "two"));
  EXPECT_EQ(zero(*node, 0, 8 << 20), 0);
  EXPECT_EQ(snapshot(*node, "create", "two").has_value(), false);
  close(node);
  expect_clean(path("s.qcow2"));
  Bytes with_first(8 << 20), with_second;
  std::copy(first.begin(), first.end(), with_first.begin());
  with_second = with_first;
  std::copy(second.begin(), second.end(), with_second.begin() + 1000);
  EXPECT_EQ(qemu_content("-l snapshot.name=one " + path("s.qcow2")), with_first);
  EXPECT_EQ(qemu_content("-l snapshot.name=two " + path("s.qcow2")), with_second);
  EXPECT_EQ(qemu_content(path("s.qcow2")), Bytes(8 << 20));

  // QEMU's own, and back to one of ours.
  ASSERT_EQ(run_command("qemu-img snapshot -c three " + path("s.qcow2")).status, 0);
  node = open({.path = path("s.qcow2")});
  EXPECT_EQ(image(*node).snapshots().size(), 3u);
  ASSERT_TRUE(snapshot(*node, "apply", "one"));
  EXPECT_EQ(read(*node, 0, 8 << 20), with_first);
  EXPECT_EQ(write(*node, 2 << 20, second), 0);
  ASSERT_TRUE(snapshot(*node, "delete", "1"));  // by id: "one"
  EXPECT_FALSE(snapshot(*node, "delete", "one"));
  close(node);
  expect_clean(path("s.qcow2"));
  EXPECT_EQ(qemu_content("-l snapshot.name=two " + path("s.qcow2")), with_second);
  ASSERT_EQ(run_command("qemu-img snapshot -d two " + path("s.qcow2")).status, 0);
  node = open({.path = path("s.qcow2")});
  ASSERT_TRUE(snapshot(*node, "delete", "three"));
  std::copy(second.begin(), second.end(), with_first.begin() + (2 << 20));
  EXPECT_EQ(read(*node, 0, 8 << 20), with_first);
  close(node);
  expect_clean(path("s.qcow2"));
}

TEST_F(Qcow2, ResizesBothWaysWithoutShowingOldData) {
  qemu_create(fmt::format("-f qcow2 {} {}", path("r.qcow2"), (1 << 20) + 512));
  auto node = open({.path = path("r.qcow2")});
  const auto resize = [&](std::uint64_t size) {
    return context_->wait([&](core::BlockCompletion done) { node->resize(size, std::move(done)); });
  };
  EXPECT_EQ(write(*node, 0, Bytes((1 << 20) + 512, 0x77)), 0);
  EXPECT_EQ(resize(1'000'000 / 512 * 512), 0);
  EXPECT_EQ(resize(std::uint64_t{3} << 30), 0);  // needs a larger L1 table
  EXPECT_EQ(node->info().size, std::uint64_t{3} << 30);
  Bytes model(2 << 20);
  std::fill_n(model.begin(), 1'000'000 / 512 * 512, std::uint8_t{0x77});
  EXPECT_EQ(read(*node, 0, model.size()), model);
  EXPECT_EQ(write(*node, (std::uint64_t{3} << 30) - 5, Bytes(5, 1)), 0);
  EXPECT_EQ(write(*node, (std::uint64_t{3} << 30) - 4, Bytes(5, 1)), EINVAL);
  close(node);
  expect_clean(path("r.qcow2"));
}

TEST_F(Qcow2, GrowsToZeroesWhateverLiesThere) {
  write_content(path("long.raw"), Bytes(4 << 20, 0x99));
  qemu_create(fmt::format("-f qcow2 -F raw -b long.raw {} 1000k", path("o.qcow2")));
  auto over = open({.path = path("o.qcow2")});
  EXPECT_EQ(context_->wait([&](core::BlockCompletion done) { over->resize(3 << 20, std::move(done)); }), 0);
  Bytes model(3 << 20);
  std::fill_n(model.begin(), 1000 << 10, std::uint8_t{0x99});
  EXPECT_EQ(read(*over, 0, model.size()), model);
  close(over);
  EXPECT_EQ(qemu_content(path("o.qcow2")), model);

  // Preallocated clusters that were used before.
  for (const Preallocation mode : {Preallocation::metadata, Preallocation::falloc, Preallocation::full}) {
    qemu_create(fmt::format("-f qcow2 {} 4M", path("p.qcow2")));
    auto node = open({.path = path("p.qcow2"), .discard = false});
    EXPECT_EQ(write(*node, 0, Bytes(4 << 20, 0x66)), 0);
    EXPECT_EQ(context_->wait([&](core::BlockCompletion done) { node->resize(1 << 20, std::move(done)); }), 0);
    EXPECT_EQ(context_->wait([&](core::BlockCompletion done) { node->resize_to(8 << 20, mode, std::move(done)); }), 0);
    Bytes expected(8 << 20);
    std::fill_n(expected.begin(), 1 << 20, std::uint8_t{0x66});
    EXPECT_EQ(read(*node, 0, expected.size()), expected);
    close(node);
    expect_clean(path("p.qcow2"));
    EXPECT_EQ(qemu_content(path("p.qcow2")), expected);
    EXPECT_THAT(run_command("qemu-img map --output=json " + path("p.qcow2")).output,
                ::testing::Not(::testing::HasSubstr("\"present\": false")));
  }
}

TEST_F(Qcow2, KeepsDataInAnExternalFile) {
  for (const char* raw : {"off", "on"}) {
    std::filesystem::remove(path("data"));
    qemu_create(fmt::format("-f qcow2 -o data_file={},data_file_raw={} {} 4M", path("data"), raw, path("x.qcow2")));
    auto node = open({.path = path("x.qcow2")});
    Bytes model(4 << 20);
    const Bytes bytes = random_bytes(300'000, 5);
    EXPECT_EQ(write(*node, 100'001, bytes), 0);
    std::copy(bytes.begin(), bytes.end(), model.begin() + 100'001);
    EXPECT_EQ(zero(*node, 150'000, 100'000, BlockFlags::kMayUnmap), 0);
    std::fill_n(model.begin() + 150'000, 100'000, std::uint8_t{0});
    EXPECT_EQ(read(*node, 0, model.size()), model);
    close(node);
    expect_clean(path("x.qcow2"));
    EXPECT_EQ(qemu_content(path("x.qcow2")), model);
    if (std::string(raw) == "on") {
      EXPECT_EQ(file_content(path("data")), model);
    }
  }
}

TEST_F(Qcow2, GivesDiscardedClustersBackToTheHost) {
  qemu_create(fmt::format("-f qcow2 {} 16M", path("d.qcow2")));
  auto node = open({.path = path("d.qcow2")});
  EXPECT_EQ(write(*node, 0, random_bytes(16 << 20, 1)), 0);
  EXPECT_EQ(flush(*node), 0);
  const std::uint64_t full = node->allocated_bytes().value();
  EXPECT_EQ(discard(*node, 0, 16 << 20), 0);
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(read(*node, 0, 1 << 20), Bytes(1 << 20));
  // The space is used again before the file grows.
  const std::uint64_t length = std::filesystem::file_size(path("d.qcow2"));
  EXPECT_EQ(flush(*node), 0);
  EXPECT_EQ(write(*node, 4 << 20, random_bytes(8 << 20, 2)), 0);
  EXPECT_EQ(std::filesystem::file_size(path("d.qcow2")), length);
  close(node);
  EXPECT_LT(open({.path = path("d.qcow2"), .read_only = true})->allocated_bytes().value(), full);
  expect_clean(path("d.qcow2"));
}

TEST_F(Qcow2, RepairsAnImageThatWasNotClosed) {
  qemu_create(fmt::format("-f qcow2 -o lazy_refcounts=on {} 4M", path("l.qcow2")));
  // Killed after a flush: no close.
  const pid_t child = ::fork();
  if (child == 0) {
    auto loop = host::EventLoop::create().value();
    Log log;
    auto context = Context::create(*loop, log).value();
    auto node = open_disk(*context, {.path = path("l.qcow2")}).value();
    Bytes bytes(1 << 20, 0x42);
    const core::BlockSpan span = bytes;
    context->wait([&](core::BlockCompletion done) {
      node->submit({.op = BlockOp::write,
                    .flags = BlockFlags::kFua,
                    .offset = 0,
                    .length = bytes.size(),
                    .spans = {&span, 1},
                    .completion = std::move(done)});
    });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_THAT(run_command("qemu-img info -U " + path("l.qcow2")).output, ::testing::HasSubstr("lazy refcounts: true"));
  auto node = open({.path = path("l.qcow2")});
  ASSERT_TRUE(node);
  EXPECT_EQ(read(*node, 0, 1 << 20), Bytes(1 << 20, 0x42));
  close(node);
  expect_clean(path("l.qcow2"));
}

/// Random requests, many at once, against an array; the image is closed, checked and opened again now and then.
class Qcow2Model : public Qcow2, public ::testing::WithParamInterface<const char*> {};

TEST_P(Qcow2Model, HoldsWhatAnArrayHolds) {
  constexpr std::size_t kSize = 6'000'128;  // ends within a cluster
  std::mt19937_64 random(std::hash<std::string>{}(GetParam()));
  const std::string file = path("m.qcow2");
  Bytes model(kSize);
  const std::string options = GetParam();
  if (options.find("backing") != std::string::npos) {
    const Bytes base = random_bytes(3'000'320, 9);
    write_content(path("base.raw"), base);
    std::copy(base.begin(), base.end(), model.begin());
    qemu_create(fmt::format("-f qcow2 -F raw -b base.raw {} {} {}", options.substr(8), file, kSize));
  } else {
    qemu_create(fmt::format("-f qcow2 {} {} {}", options, file, kSize));
  }
  std::vector<std::pair<std::string, Bytes>> snapshots;
  for (int round = 0; round < 6; ++round) {
    DiskOptions how{.path = file};
    how.l2_cache = 1;  // the least there is
    if (round % 3 == 1) how.cache = CacheMode::none;
    if (round % 3 == 2) how.cache = CacheMode::writethrough;
    auto node = open(how);
    ASSERT_TRUE(node);
    struct Flying {
      std::uint64_t start, end;
      Bytes bytes;
      core::BlockSpan span;
      bool done = false;
      int error = 0;
    };
    std::deque<std::unique_ptr<Flying>> flying;
    const auto settle = [&](std::size_t most) {
      while (flying.size() > most) {
        std::erase_if(flying, [](const auto& f) {
          if (f->done) {
            EXPECT_EQ(f->error, 0);
          }
          return f->done;
        });
        if (flying.size() > most) loop_->run_once();
      }
    };
    for (int step = 0; step < 250; ++step) {
      const std::uint64_t scale = std::uint64_t{1} << (random() % 19);
      std::uint64_t offset = random() % kSize;
      std::uint64_t length = std::min<std::uint64_t>(1 + random() % (scale * 2), kSize - offset);
      if (random() % 2) {
        offset &= ~std::uint64_t{511};
        length = std::min<std::uint64_t>((length + 511) & ~std::uint64_t{511}, kSize - offset);
      }
      // Overlapping requests under way have no order: wait for those first.
      const auto overlaps = [&] {
        return std::any_of(flying.begin(), flying.end(),
                           [&](const auto& f) { return !f->done && f->start < offset + length && offset < f->end; });
      };
      while (overlaps()) loop_->run_once();
      const auto begin = model.begin() + static_cast<std::ptrdiff_t>(offset);
      const unsigned kind = static_cast<unsigned>(random() % 16);
      if (kind < 8) {
        auto f = std::make_unique<Flying>(
            Flying{offset, offset + length, random_bytes(length, static_cast<unsigned>(random())), {}});
        f->span = f->bytes;
        std::copy(f->bytes.begin(), f->bytes.end(), begin);
        Flying* raw = f.get();
        flying.push_back(std::move(f));
        node->submit({.op = BlockOp::write,
                      .flags = kind == 0 ? BlockFlags::kFua : 0,
                      .offset = offset,
                      .length = length,
                      .spans = {&raw->span, 1},
                      .completion = [raw](int error) {
                        raw->error = error;
                        raw->done = true;
                      }});
      } else if (kind < 11) {
        auto f = std::make_unique<Flying>(Flying{offset, offset + length, {}, {}});
        std::fill_n(begin, length, std::uint8_t{0});
        Flying* raw = f.get();
        flying.push_back(std::move(f));
        node->submit({.op = BlockOp::write_zeroes,
                      .flags = kind == 8 ? BlockFlags::kMayUnmap : 0,
                      .offset = offset,
                      .length = length,
                      .spans = {},
                      .completion = [raw](int error) {
                        raw->error = error;
                        raw->done = true;
                      }});
      } else if (kind == 11) {
        // What is discarded may read as before or as zeroes, cluster by cluster; here it is read back.
        settle(0);
        EXPECT_EQ(discard(*node, offset, length), 0);
        const Bytes now = read(*node, offset, length);
        for (std::size_t i = 0; i < length; ++i)
          ASSERT_TRUE(now[i] == 0 || now[i] == *(begin + static_cast<std::ptrdiff_t>(i)));
        std::copy(now.begin(), now.end(), begin);
      } else if (kind == 12) {
        EXPECT_EQ(flush(*node), 0);
      } else if (kind == 13 && step % 5 == 0 && options.find("data_file") == std::string::npos &&
                 options.find("refcount_bits=1") == std::string::npos) {
        settle(0);
        if (snapshots.size() < 3) {
          const std::string name = fmt::format("s{}-{}", round, step);
          const Status made = snapshot(*node, "create", name);
          ASSERT_TRUE(made) << made.error().text();
          snapshots.emplace_back(name, model);
        } else {
          const std::size_t which = random() % snapshots.size();
          if (random() % 2) {
            ASSERT_TRUE(snapshot(*node, "apply", snapshots[which].first));
            model = snapshots[which].second;
          }
          ASSERT_TRUE(snapshot(*node, "delete", snapshots[which].first));
          snapshots.erase(snapshots.begin() + static_cast<std::ptrdiff_t>(which));
        }
      } else {
        EXPECT_EQ(read(*node, offset, length), Bytes(begin, begin + static_cast<std::ptrdiff_t>(length)))
            << options << " round " << round << " step " << step << " offset " << offset;
      }
      settle(12);
      if (HasFailure()) return;
    }
    settle(0);
    EXPECT_EQ(read(*node, 0, kSize), model) << options << " round " << round;
    close(node);
    expect_clean(file);
    EXPECT_EQ(qemu_content(file), model) << options << " round " << round;
    if (HasFailure()) return;
  }
  for (const auto& [name, content] : snapshots)
    EXPECT_EQ(qemu_content("-l snapshot.name=" + name + " " + file), content);
}

INSTANTIATE_TEST_SUITE_P(Formats, Qcow2Model,
                         ::testing::Values("", "-o compat=0.10", "-o cluster_size=512", "-o cluster_size=2k",
                                           "-o cluster_size=1M", "-o extended_l2=on,cluster_size=16k",
                                           "-o extended_l2=on", "-o lazy_refcounts=on", "-o refcount_bits=1",
                                           "-o refcount_bits=64,cluster_size=1k", "backing ", "backing -o compat=0.10",
                                           "backing -o extended_l2=on", "backing -o cluster_size=8k",
                                           "-o preallocation=metadata"));

}  // namespace
}  // namespace husk::block
