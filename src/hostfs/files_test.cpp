// husk: tests of the FUSE server: open files, their data, locks, and a session that goes on elsewhere
#include <gmock/gmock.h>
#include <sys/file.h>

#include <random>

#include "hostfs/fuse_client.h"

namespace husk::hostfs {
namespace {

constexpr std::uint64_t kRoot = FUSE_ROOT_ID;

struct FilesTest : ::testing::Test {
  ServerOptions options() { return {.root = dir.root()}; }
  void make(ServerOptions with) {
    client.emplace(std::move(with));
    ASSERT_EQ(client->init().error, 0);
  }
  void make() { make(options()); }
  FuseClient::Bytes lock(std::uint64_t handle, std::uint64_t owner, std::uint32_t type, std::uint64_t start = 0,
                         std::uint64_t end = INT64_MAX, std::uint32_t flags = 0) {
    fuse_lk_in in{};
    in.fh = handle;
    in.owner = owner;
    in.lk.start = start;
    in.lk.end = end;
    in.lk.type = type;
    in.lk_flags = flags;
    return FuseClient::bytes_of(in);
  }
  void flush(std::uint64_t node, std::uint64_t handle, std::uint64_t owner) {
    fuse_flush_in in{};
    in.fh = handle;
    in.lock_owner = owner;
    EXPECT_EQ(client->ask(FUSE_FLUSH, node, FuseClient::bytes_of(in)).error, 0);
  }
  SharedDirectory dir;
  std::optional<FuseClient> client;
};

TEST_F(FilesTest, WhatIsWrittenIsInTheFileAndReadsBack) {
  make();
  const auto made = client->create(kRoot, "file", O_RDWR | O_EXCL, 0644);
  ASSERT_EQ(made.error, 0);
  const std::uint64_t node = made.as<fuse_entry_out>().nodeid;
  const std::uint64_t handle = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  std::string large(1 << 20, ' ');
  std::minstd_rand random(7);
  for (char& c : large) c = static_cast<char>(random());
  EXPECT_EQ(client->write(node, handle, 0, large).as<fuse_write_out>().size, large.size());
  EXPECT_EQ(client->write(node, handle, 100, "small").as<fuse_write_out>().size, 5u);
  large.replace(100, 5, "small");
  EXPECT_EQ(dir.get("file"), large);
  const auto back = client->read(node, handle, 0, 1 << 20);
  EXPECT_EQ(std::string(back.data.begin(), back.data.end()), large);
  EXPECT_EQ(client->read(node, handle, (1 << 20) - 3, 100).data.size(), 3u);
  EXPECT_EQ(client->read(node, handle, 1 << 20, 100).data.size(), 0u);
  EXPECT_EQ(client->read(node, handle, ~0ull, 100).error, EINVAL);
  EXPECT_EQ(client->write(node, handle, INT64_MAX, "xx").error, EINVAL);
  EXPECT_EQ(client->release(node, handle).error, 0);
  EXPECT_EQ(client->read(node, handle, 0, 10).error, EBADF);
  EXPECT_EQ(client->create(kRoot, "file", O_RDWR | O_EXCL, 0644).error, EEXIST);
}

TEST_F(FilesTest, AnOpenFileOutlivesItsName) {
  dir.put("file", "before");
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  EXPECT_EQ(client->unlink(kRoot, "file").error, 0);
  dir.put("file", "another");
  EXPECT_EQ(client->attributes(node, handle).nlink, 0u);
  EXPECT_EQ(client->write(node, handle, 6, " and after").error, 0);
  EXPECT_EQ(client->read_text(node, handle), "before and after");
  EXPECT_EQ(client->attributes(node, handle).size, 16u);
  EXPECT_EQ(dir.get("file"), "another");
}

TEST_F(FilesTest, HandlesBelongToTheirNode) {
  dir.put("one", "1");
  dir.put("two", "2");
  make();
  const std::uint64_t one = client->node("one"), two = client->node("two");
  const std::uint64_t handle = client->open(one, O_RDONLY);
  EXPECT_EQ(client->read(two, handle, 0, 10).error, EBADF);
  EXPECT_EQ(client->read(one, handle + 1, 0, 10).error, EBADF);
  EXPECT_EQ(client->read(one, 0, 0, 10).error, EBADF);
  EXPECT_EQ(client->write(one, handle, 0, "x").error, EBADF);
  const std::uint64_t directory = client->open(kRoot, O_RDONLY, true);
  EXPECT_EQ(client->read(kRoot, directory, 0, 10).error, EBADF);
}

TEST_F(FilesTest, TruncatingOpensTruncate) {
  dir.put("file", "content");
  make();
  const std::uint64_t node = client->node("file");
  client->open(node, O_WRONLY | O_TRUNC);
  EXPECT_EQ(dir.get("file"), "");
  dir.put("file", "content");
  EXPECT_EQ(client->create(kRoot, "file", O_WRONLY | O_TRUNC, 0644).error, 0);
  EXPECT_EQ(dir.get("file"), "");
}

TEST_F(FilesTest, AppendedDataGoesToTheEndWhoeverElseWrites) {
  dir.put("log", "one ");
  make();
  const std::uint64_t node = client->node("log");
  const std::uint64_t handle = client->open(node, O_WRONLY | O_APPEND);
  std::ofstream(dir / "log", std::ios::app) << "two ";
  EXPECT_EQ(client->write(node, handle, 4, "three").error, 0);
  EXPECT_EQ(dir.get("log"), "one two three");
  // A page of the guest's cache has its place.
  EXPECT_EQ(client->write(node, handle, 0, "ONE", FUSE_WRITE_CACHE).error, 0);
  EXPECT_EQ(dir.get("log"), "ONE two three");
}

TEST_F(FilesTest, OnlySoManyFilesAreOpenAtOnce) {
  dir.put("file", "");
  auto with = options();
  with.most_descriptors = 64;
  make(with);
  const std::uint64_t node = client->node("file");
  std::vector<std::uint64_t> handles;
  for (;;) {
    const auto answer = client->open_answer(node, O_RDONLY);
    if (answer.error) {
      EXPECT_EQ(answer.error, ENFILE);
      break;
    }
    handles.push_back(answer.as<fuse_open_out>().fh);
    ASSERT_LE(handles.size(), 64u);
  }
  client->release(node, handles.back());
  EXPECT_EQ(client->open_answer(node, O_RDONLY).error, 0);
}

TEST_F(FilesTest, FallocateSeekAndCopyDoWhatTheHostDoes) {
  make();
  const auto made = client->create(kRoot, "file", O_RDWR, 0644);
  const std::uint64_t node = made.as<fuse_entry_out>().nodeid;
  const std::uint64_t handle = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  fuse_fallocate_in allocate{};
  allocate.fh = handle;
  allocate.length = 1 << 20;
  const auto allocated = client->ask(FUSE_FALLOCATE, node, FuseClient::bytes_of(allocate));
  if (allocated.error == EOPNOTSUPP) GTEST_SKIP() << "no fallocate here";
  EXPECT_EQ(allocated.error, 0);
  EXPECT_EQ(dir.stat("file").st_size, 1 << 20);
  allocate.mode = 0x100;
  EXPECT_EQ(client->ask(FUSE_FALLOCATE, node, FuseClient::bytes_of(allocate)).error, EOPNOTSUPP);
  allocate.mode = 0;
  allocate.offset = ~0ull;
  EXPECT_EQ(client->ask(FUSE_FALLOCATE, node, FuseClient::bytes_of(allocate)).error, EINVAL);

  client->write(node, handle, 0, std::string(8192, 'a'));
  fuse_setattr_in size{};
  size.valid = FATTR_SIZE;
  size.size = 0;
  EXPECT_EQ(client->setattr(node, size).error, 0);
  size.size = 4 << 20;
  EXPECT_EQ(client->setattr(node, size).error, 0);
  client->write(node, handle, 1 << 20, std::string(65536, 'b'));
  fuse_lseek_in seek{};
  seek.fh = handle;
  seek.whence = SEEK_DATA;
  const int fd = ::open((dir / "file").c_str(), O_RDONLY);
  const auto data = static_cast<std::uint64_t>(::lseek(fd, 0, SEEK_DATA));
  ::close(fd);
  EXPECT_EQ(client->ask(FUSE_LSEEK, node, FuseClient::bytes_of(seek)).as<fuse_lseek_out>().offset, data);
  seek.offset = 8 << 20;
  EXPECT_EQ(client->ask(FUSE_LSEEK, node, FuseClient::bytes_of(seek)).error, ENXIO);

  const auto other = client->create(kRoot, "copy", O_RDWR, 0644);
  fuse_copy_file_range_in copy{};
  copy.fh_in = handle;
  copy.off_in = 1 << 20;
  copy.nodeid_out = other.as<fuse_entry_out>().nodeid;
  copy.fh_out = other.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  copy.len = 65536;
  EXPECT_EQ(client->ask(FUSE_COPY_FILE_RANGE, node, FuseClient::bytes_of(copy)).as<fuse_write_out>().size, 65536u);
  EXPECT_EQ(dir.get("copy"), std::string(65536, 'b'));
  copy.fh_out = handle;
  EXPECT_EQ(client->ask(FUSE_COPY_FILE_RANGE, node, FuseClient::bytes_of(copy)).error, EBADF);
  fuse_fsync_in sync{};
  sync.fh = handle;
  EXPECT_EQ(client->ask(FUSE_FSYNC, node, FuseClient::bytes_of(sync)).error, 0);
}

TEST_F(FilesTest, ATemporaryFileHasNoNameUntilItIsLinked) {
  make();
  fuse_create_in in{};
  in.flags = O_RDWR;
  in.mode = S_IFREG | 0600;
  const auto made = client->ask(FUSE_TMPFILE, kRoot, FuseClient::join(FuseClient::bytes_of(in), FuseClient::text("/")));
  if (made.error == EOPNOTSUPP) GTEST_SKIP() << "no O_TMPFILE here";
  ASSERT_EQ(made.error, 0);
  const std::uint64_t node = made.as<fuse_entry_out>().nodeid;
  const std::uint64_t handle = made.as<fuse_open_out>(sizeof(fuse_entry_out)).fh;
  EXPECT_EQ(made.as<fuse_entry_out>().attr.nlink, 0u);
  EXPECT_EQ(client->list(kRoot).size(), 2u);
  client->write(node, handle, 0, "x");
  EXPECT_EQ(client->attributes(node).size, 1u);
  EXPECT_EQ(client->link(kRoot, "named", node).error, 0);
  EXPECT_EQ(client->node("named"), node);
  EXPECT_EQ(dir.get("named"), "x");
}

TEST_F(FilesTest, SetuidBitsGoWhenTheGuestSaysSo) {
  if (::geteuid() != 0) GTEST_SKIP() << "the host's kernel does it, for anyone but root";
  dir.put("file", "content");
  ASSERT_EQ(::chmod((dir / "file").c_str(), 06755), 0);
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  client->write(node, handle, 0, "x");
  EXPECT_EQ(dir.stat("file").st_mode & 07777, 06755u);
  client->write(node, handle, 0, "x", FUSE_WRITE_KILL_SUIDGID);
  EXPECT_EQ(dir.stat("file").st_mode & 07777, 0755u);
  ASSERT_EQ(::chmod((dir / "file").c_str(), 06745), 0);
  fuse_setattr_in in{};
  in.valid = FATTR_SIZE | FATTR_KILL_SUIDGID;
  EXPECT_EQ(client->setattr(node, in).error, 0);
  EXPECT_EQ(dir.stat("file").st_mode & 07777, 02745u);
}

TEST_F(FilesTest, AReadOnlyTrustedShareIsReadWithoutOpening) {
  dir.put("file", "content");
  std::filesystem::create_directory(dir / "sub");
  dir.put("sub/inner", "");
  auto with = options();
  with.read_only = true;
  with.trust_cache = true;
  make(with);
  const std::uint64_t node = client->node("file");
  EXPECT_EQ(client->open_answer(node, O_RDONLY).error, ENOSYS);
  EXPECT_EQ(client->open_answer(node, O_RDWR).error, EROFS);
  EXPECT_EQ(client->read_text(node, 0), "content");
  EXPECT_EQ(client->read_text(node, 0, 3), "tent");
  EXPECT_EQ(client->open_answer(client->node("sub"), O_RDONLY, true).error, ENOSYS);
  for (int i = 0; i < 2; ++i) {
    const auto names = client->readdir(client->node("sub"), 0, 0, 4096, true);
    ASSERT_EQ(names.size(), 3u);
    EXPECT_TRUE(client->readdir(client->node("sub"), 0, names.back().offset, 4096, true).empty());
  }
  EXPECT_EQ(client->read(client->node("sub"), 0, 0, 10).error, EBADF);
  for (int i = 0; i < 2000; ++i) dir.put("many" + std::to_string(i), std::to_string(i));
  for (int i = 0; i < 2000; ++i)
    EXPECT_EQ(client->read_text(client->node("many" + std::to_string(i)), 0), std::to_string(i));
}

TEST_F(FilesTest, LocksOfDifferentOwnersExcludeEachOther) {
  dir.put("file", "");
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_WRLCK, 0, 99)).error, 0);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_RDLCK, 10, 19)).error, 0);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 2, F_RDLCK, 50, 60)).error, EAGAIN);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 2, F_RDLCK, 10, 19)).error, 0);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 2, F_WRLCK, 100)).error, 0);
  const auto held = client->ask(FUSE_GETLK, node, lock(handle, 2, F_WRLCK, 0, 9)).as<fuse_lk_out>().lk;
  EXPECT_EQ(held.type, static_cast<unsigned>(F_WRLCK));
  EXPECT_EQ(held.start, 0u);
  EXPECT_EQ(held.end, 9u);
  const auto tail = client->ask(FUSE_GETLK, node, lock(handle, 1, F_WRLCK, 500, 600)).as<fuse_lk_out>().lk;
  EXPECT_EQ(tail.start, 100u);
  EXPECT_EQ(tail.end, static_cast<std::uint64_t>(INT64_MAX));
  // Another process on the host sees them.
  const int fd = ::open((dir / "file").c_str(), O_RDWR);
  struct flock probe{};
  probe.l_type = F_WRLCK;
  EXPECT_LT(::fcntl(fd, F_OFD_SETLK, &probe), 0);
  flush(node, handle, 1);
  flush(node, handle, 2);
  EXPECT_EQ(::fcntl(fd, F_OFD_SETLK, &probe), 0);
  ::close(fd);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_WRLCK, 9, 8)).error, EINVAL);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, 7, 0, 8)).error, EINVAL);
}

TEST_F(FilesTest, AWaitingLockIsGivenWhenTheOtherGoes) {
  dir.put("file", "");
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  ASSERT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_WRLCK)).error, 0);
  const auto waiting = client->send(FUSE_SETLKW, node, lock(handle, 2, F_WRLCK));
  EXPECT_FALSE(client->answered(waiting));
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_UNLCK)).error, 0);
  EXPECT_EQ(client->wait(waiting).error, 0);
  EXPECT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_WRLCK)).error, EAGAIN);
}

TEST_F(FilesTest, AWaitForALockOfAnotherProcessEndsWithIt) {
  dir.put("file", "");
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  const int fd = ::open((dir / "file").c_str(), O_RDWR);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  const auto waiting = client->send(FUSE_SETLKW, node, lock(handle, 1, F_WRLCK, 0, INT64_MAX, FUSE_LK_FLOCK));
  EXPECT_FALSE(client->answered(waiting));
  ::close(fd);
  EXPECT_EQ(client->wait(waiting).error, 0);
  const int other = ::open((dir / "file").c_str(), O_RDWR);
  EXPECT_LT(::flock(other, LOCK_EX | LOCK_NB), 0);
  client->release(node, handle);
  EXPECT_EQ(::flock(other, LOCK_EX | LOCK_NB), 0);
  ::close(other);
}

TEST_F(FilesTest, AWaitForALockCanBeInterrupted) {
  dir.put("file", "");
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  ASSERT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_WRLCK)).error, 0);
  const auto first = client->send(FUSE_SETLKW, node, lock(handle, 2, F_WRLCK));
  const auto second = client->send(FUSE_SETLKW, node, lock(handle, 3, F_WRLCK));
  client->ask(FUSE_INTERRUPT, 0, FuseClient::bytes_of(fuse_interrupt_in{first}), 0);
  EXPECT_EQ(client->wait(first).error, EINTR);
  EXPECT_FALSE(client->answered(second));
  {
    const mem::DomainGuard guard(&client->domain());
    client->port().reset();
  }
  EXPECT_EQ(client->wait(second).error, EINTR);
}

TEST_F(FilesTest, DrainEndsWaitsForLocks) {
  dir.put("file", "");
  make();
  const std::uint64_t node = client->node("file");
  const std::uint64_t handle = client->open(node, O_RDWR);
  ASSERT_EQ(client->ask(FUSE_SETLK, node, lock(handle, 1, F_WRLCK)).error, 0);
  const auto waiting = client->send(FUSE_SETLKW, node, lock(handle, 2, F_WRLCK));
  client->port().drain();
  EXPECT_EQ(client->wait(waiting).error, EINTR);
}

TEST_F(FilesTest, ASessionGoesOnWhereItIsLoaded) {
  std::filesystem::create_directories(dir / "a/b");
  dir.put("a/b/file", "content");
  dir.put("gone", "x");
  dir.put("lost", "x");
  make();
  const std::uint64_t directory = client->node("a/b"), file = client->node("a/b/file"), gone = client->node("gone"),
                      lost = client->node("lost");
  const std::uint64_t handle = client->open(file, O_RDWR | O_TRUNC);
  client->write(file, handle, 0, "content");
  const std::uint64_t gone_handle = client->open(gone, O_RDONLY);
  client->unlink(kRoot, "gone");
  const auto state = client->port().save();
  ASSERT_FALSE(state.empty());

  std::filesystem::remove(dir / "lost");
  FuseClient second(options());
  const auto loaded = second.port().load(state);
  ASSERT_TRUE(loaded) << loaded.error().text();
  EXPECT_EQ(second.port().save().size() < state.size(), true) << "the lost handle is not in it";
  EXPECT_EQ(second.read_text(file, handle), "content");
  EXPECT_EQ(second.write(file, handle, 0, "CON").error, 0);
  EXPECT_EQ(dir.get("a/b/file"), "CONtent");
  EXPECT_EQ(second.lookup(directory, "file").as<fuse_entry_out>().nodeid, file);
  EXPECT_EQ(second.getattr(gone).error, ESTALE);
  EXPECT_EQ(second.read(gone, gone_handle, 0, 10).error, EBADF);
  EXPECT_EQ(second.getattr(lost).error, ESTALE);
  EXPECT_EQ(second.create(directory, "new", O_RDWR, 0644).error, 0);
  EXPECT_NE(second.node("a/b/new"), file);
}

TEST_F(FilesTest, ADamagedSessionIsRefusedOrHarmless) {
  std::filesystem::create_directories(dir / "a/b");
  std::ofstream(dir.outside("secret")) << "secret";
  dir.put("a/b/file", "content");
  make();
  client->open(client->node("a/b/file"), O_RDWR);
  const auto state = client->port().save();
  FuseClient second(options());
  EXPECT_TRUE(second.port().load({}));
  for (std::size_t length = 1; length < state.size(); ++length) (void)second.port().load({state.data(), length});
  auto damaged = state;
  for (std::size_t bit = 0; bit < state.size() * 8; ++bit) {
    damaged[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    (void)second.port().load(damaged);
    damaged[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
  }
  // Names that would lead out of the share.
  std::string text(state.begin(), state.end());
  const std::size_t at = text.find("file");
  ASSERT_NE(at, std::string::npos);
  text.replace(at, 4, "../x");
  const std::vector<std::uint8_t> evil(text.begin(), text.end());
  EXPECT_FALSE(second.port().load(evil));
}

}  // namespace
}  // namespace husk::hostfs
