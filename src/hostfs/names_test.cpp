// husk: tests of the FUSE server: names, attributes and what must stay out of reach, against the host's system calls
#include <dirent.h>
#include <sys/vfs.h>
#include <sys/xattr.h>

#include <set>

#include "hostfs/fuse_client.h"

namespace husk::hostfs {
namespace {

constexpr std::uint64_t kRoot = FUSE_ROOT_ID;

struct NamesTest : ::testing::Test {
  ServerOptions options() { return {.root = dir.root()}; }
  void make(ServerOptions with) {
    client.emplace(std::move(with));
    ASSERT_EQ(client->init().error, 0);
  }
  void make() { make(options()); }
  SharedDirectory dir;
  std::optional<FuseClient> client;
};

void expect_same(const fuse_attr& shown, const struct stat& host) {
  EXPECT_EQ(shown.ino, host.st_ino);
  EXPECT_EQ(shown.size, static_cast<std::uint64_t>(host.st_size));
  EXPECT_EQ(shown.blocks, static_cast<std::uint64_t>(host.st_blocks));
  EXPECT_EQ(shown.mode, host.st_mode);
  EXPECT_EQ(shown.nlink, host.st_nlink);
  EXPECT_EQ(shown.uid, host.st_uid);
  EXPECT_EQ(shown.gid, host.st_gid);
  EXPECT_EQ(shown.atime, static_cast<std::uint64_t>(host.st_atim.tv_sec));
  EXPECT_EQ(shown.mtime, static_cast<std::uint64_t>(host.st_mtim.tv_sec));
  EXPECT_EQ(shown.ctime, static_cast<std::uint64_t>(host.st_ctim.tv_sec));
  EXPECT_EQ(shown.mtimensec, static_cast<std::uint32_t>(host.st_mtim.tv_nsec));
  EXPECT_EQ(shown.ctimensec, static_cast<std::uint32_t>(host.st_ctim.tv_nsec));
  EXPECT_EQ(shown.blksize, static_cast<std::uint32_t>(host.st_blksize));
}

TEST_F(NamesTest, InitAgreesOnAVersionAndOnFeaturesOfBothSides) {
  client.emplace(options());
  const auto answer = client->init(FUSE_ASYNC_READ | FUSE_MAX_PAGES | FUSE_POSIX_LOCKS | FUSE_NO_OPEN_SUPPORT);
  ASSERT_EQ(answer.error, 0);
  const auto out = answer.as<fuse_init_out>();
  ASSERT_EQ(answer.data.size(), sizeof out);
  EXPECT_EQ(out.major, 7u);
  EXPECT_EQ(out.flags, FUSE_ASYNC_READ | FUSE_MAX_PAGES | FUSE_POSIX_LOCKS);
  EXPECT_EQ(out.max_readahead, 131072u);
  EXPECT_EQ(out.max_write, 1u << 20);
  EXPECT_EQ(out.max_pages, 256u);
  EXPECT_EQ(client->init(~0u, 30).error, EPROTO);
}

TEST_F(NamesTest, NothingWorksBeforeInit) {
  client.emplace(options());
  EXPECT_EQ(client->getattr(kRoot).error, EIO);
}

TEST_F(NamesTest, LookUpAndGetattrTellWhatStatTells) {
  dir.put("file", "content");
  std::filesystem::create_directory(dir / "sub");
  ASSERT_EQ(::symlink("file", (dir / "link").c_str()), 0);
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0640), 0);
  make();
  for (const std::string name : {"file", "sub", "link", "fifo"}) {
    SCOPED_TRACE(name);
    const auto entry = client->lookup(kRoot, name).as<fuse_entry_out>();
    ASSERT_NE(entry.nodeid, 0u);
    expect_same(entry.attr, dir.stat(name));
    expect_same(client->attributes(entry.nodeid), dir.stat(name));
    EXPECT_EQ(entry.entry_valid, 1u);
  }
  expect_same(client->attributes(kRoot), dir.stat(""));
  EXPECT_EQ(client->lookup(kRoot, "none").error, ENOENT);
}

TEST_F(NamesTest, TimeoutsAreAsConfigured) {
  dir.put("file", "");
  auto with = options();
  with.entry_timeout_ns = 2'500'000'000;
  with.attribute_timeout_ns = 250'000'000;
  with.negative_timeout_ns = 3'000'000'000;
  make(with);
  const auto entry = client->lookup(kRoot, "file").as<fuse_entry_out>();
  EXPECT_EQ(entry.entry_valid, 2u);
  EXPECT_EQ(entry.entry_valid_nsec, 500'000'000u);
  EXPECT_EQ(entry.attr_valid, 0u);
  EXPECT_EQ(entry.attr_valid_nsec, 250'000'000u);
  const auto missing = client->lookup(kRoot, "none");
  ASSERT_EQ(missing.error, 0);
  EXPECT_EQ(missing.as<fuse_entry_out>().nodeid, 0u);
  EXPECT_EQ(missing.as<fuse_entry_out>().entry_valid, 3u);
}

TEST_F(NamesTest, NamesThatAreNoSingleComponentAreRefused) {
  make();
  std::ofstream(dir.outside("secret")) << "secret";
  for (const std::string name : {"", ".", "..", "../secret", "/etc/passwd", "a/b", "sub/"})
    EXPECT_EQ(client->lookup(kRoot, name).error, EINVAL) << name;
  EXPECT_EQ(client->lookup(kRoot, std::string(256, 'x')).error, ENAMETOOLONG);
  EXPECT_EQ(client->mkdir(kRoot, "..", 0755).error, EINVAL);
  EXPECT_EQ(client->mknod(kRoot, "../new", S_IFREG | 0644).error, EINVAL);
  EXPECT_EQ(client->create(kRoot, "../new", O_WRONLY, 0644).error, EINVAL);
  EXPECT_EQ(client->symlink(kRoot, "a/b", "x").error, EINVAL);
  EXPECT_EQ(client->unlink(kRoot, "../secret").error, EINVAL);
  EXPECT_EQ(client->rmdir(kRoot, "..").error, EINVAL);
  EXPECT_EQ(client->rename(kRoot, "../secret", kRoot, "mine").error, EINVAL);
  dir.put("file", "");
  EXPECT_EQ(client->rename(kRoot, "file", kRoot, "../taken").error, EINVAL);
  EXPECT_EQ(client->link(kRoot, "../taken", client->node("file")).error, EINVAL);
  EXPECT_TRUE(std::filesystem::exists(dir.outside("secret")));
  EXPECT_FALSE(std::filesystem::exists(dir.outside("taken")));
}

TEST_F(NamesTest, SymbolicLinksAreNeverFollowedOnTheHost) {
  std::filesystem::create_directory(dir.outside("private"));
  std::ofstream(dir.outside("private/secret")) << "secret";
  std::filesystem::create_directory_symlink(dir.outside("private"), dir / "way-out");
  std::filesystem::create_symlink(dir.outside("private/secret"), dir / "secret");
  make();
  const std::uint64_t way_out = client->node("way-out");
  EXPECT_EQ(client->lookup(way_out, "secret").error, ENOTDIR);
  EXPECT_EQ(client->mkdir(way_out, "new", 0755).error, ENOTDIR);
  EXPECT_EQ(client->open_answer(way_out, O_RDONLY, true).error, ENOTDIR);
  EXPECT_EQ(client->open_answer(client->node("secret"), O_RDONLY).error, ENXIO);
  EXPECT_EQ(client->create(kRoot, "secret", O_RDWR, 0644).error, ENXIO);
  fuse_setattr_in in{};
  in.valid = FATTR_MODE;
  in.mode = 0777;
  EXPECT_EQ(client->setattr(client->node("secret"), in).error, EOPNOTSUPP);
  in.valid = FATTR_SIZE;
  EXPECT_EQ(client->setattr(client->node("secret"), in).error, ENXIO);
  const auto target = client->ask(FUSE_READLINK, client->node("secret"), {});
  EXPECT_EQ(std::string(target.data.begin(), target.data.end()), dir.outside("private/secret").string());
  EXPECT_EQ(std::filesystem::file_size(dir.outside("private/secret")), 6u);
}

TEST_F(NamesTest, ADirectoryReplacedByASymlinkUnderFootLeadsNowhere) {
  std::filesystem::create_directory(dir.outside("private"));
  std::ofstream(dir.outside("private/secret")) << "secret";
  std::filesystem::create_directories(dir / "a/b");
  auto with = options();
  with.most_descriptors = 64;
  make(with);
  const std::uint64_t inner = client->node("a/b");
  // So many others that no descriptor of it is kept.
  for (int i = 0; i < 40; ++i) {
    std::filesystem::create_directories(dir / ("d" + std::to_string(i)) / "x");
    ASSERT_NE(client->node("d" + std::to_string(i) + "/x"), 0u);
    client->lookup(client->node("d" + std::to_string(i) + "/x"), "y");
  }
  std::filesystem::rename(dir / "a/b", dir.outside("gone"));
  std::filesystem::create_directory_symlink(dir.outside("private"), dir / "a/b");
  EXPECT_EQ(client->lookup(inner, "secret").error, ESTALE);
  EXPECT_EQ(client->create(inner, "new", O_WRONLY, 0644).error, ESTALE);
  EXPECT_EQ(client->getattr(inner).error, ESTALE);
  // Another directory of the same name is another one.
  std::filesystem::remove(dir / "a/b");
  std::filesystem::create_directory(dir / "a/b");
  EXPECT_EQ(client->getattr(inner).error, ESTALE);
  EXPECT_NE(client->node("a/b"), inner);
}

TEST_F(NamesTest, KernelFileSystemsAreHidden) {
  if (!std::filesystem::exists("/proc/self/maps")) GTEST_SKIP() << "no /proc here";
  make({.root = "/"});
  const auto proc = client->lookup(kRoot, "proc");
  ASSERT_EQ(proc.error, 0);
  const std::uint64_t node = proc.as<fuse_entry_out>().nodeid;
  EXPECT_EQ(client->lookup(node, "self").error, ENOENT);
  EXPECT_EQ(client->lookup(node, std::to_string(::getpid())).error, ENOENT);
  EXPECT_TRUE(client->list(node).empty());
  EXPECT_TRUE(client->list(node, 4096, true).empty());
  EXPECT_EQ(client->mkdir(node, "x", 0755).error, EACCES);
  Log log;
  const auto refused = Server::create({.root = "/proc"}, log);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().text(), ::testing::HasSubstr("proc"));
}

TEST_F(NamesTest, FilesOfOtherFileSystemsHaveInodeNumbersOfTheirOwn) {
  if (!std::filesystem::exists("/dev/null") || dir.stat("").st_dev == 0) GTEST_SKIP();
  struct stat root{}, dev{};
  ::stat("/", &root);
  ::stat("/dev", &dev);
  if (root.st_dev == dev.st_dev) GTEST_SKIP() << "/dev is no mount point here";
  make({.root = "/"});
  const auto entry = client->lookup(kRoot, "dev").as<fuse_entry_out>();
  EXPECT_EQ(entry.attr.ino & 0xFFFF'FFFF'FFFF, dev.st_ino);
  EXPECT_NE(entry.attr.ino >> 48, 0u);
  const auto null = client->lookup(entry.nodeid, "null").as<fuse_entry_out>();
  EXPECT_EQ(null.attr.mode & S_IFMT, static_cast<unsigned>(S_IFCHR));
  EXPECT_EQ(null.attr.rdev, (1u << 8) | 3u);
  EXPECT_EQ(client->open_answer(null.nodeid, O_RDWR).error, ENXIO);
}

TEST_F(NamesTest, MadeThingsHaveTheModeAskedForWhateverTheUmask) {
  make();
  const mode_t before = ::umask(077);
  EXPECT_EQ(client->mkdir(kRoot, "dir", 01777).error, 0);
  EXPECT_EQ(client->mknod(kRoot, "file", S_IFREG | 0666).error, 0);
  EXPECT_EQ(client->mknod(kRoot, "fifo", S_IFIFO | 0622).error, 0);
  EXPECT_EQ(client->create(kRoot, "created", O_RDWR, 0640).error, 0);
  EXPECT_EQ(client->symlink(kRoot, "link", "some/where").error, 0);
  ::umask(before);
  EXPECT_EQ(dir.stat("dir").st_mode, static_cast<unsigned>(S_IFDIR | 01777));
  EXPECT_EQ(dir.stat("file").st_mode, static_cast<unsigned>(S_IFREG | 0666));
  EXPECT_EQ(dir.stat("fifo").st_mode, static_cast<unsigned>(S_IFIFO | 0622));
  EXPECT_EQ(dir.stat("created").st_mode, static_cast<unsigned>(S_IFREG | 0640));
  EXPECT_EQ(std::filesystem::read_symlink(dir / "link"), "some/where");
  EXPECT_EQ(client->mkdir(kRoot, "dir", 0755).error, EEXIST);
  EXPECT_EQ(client->symlink(kRoot, "dir", "x").error, EEXIST);
}

TEST_F(NamesTest, OwnersAreThoseOfTheGuestIfTheHostAllows) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  make();
  client->uid = 1234;
  client->gid = 567;
  EXPECT_EQ(client->mkdir(kRoot, "dir", 0755).as<fuse_entry_out>().attr.uid, 1234u);
  EXPECT_EQ(client->create(kRoot, "file", O_RDWR, 04755).error, 0);
  EXPECT_EQ(dir.stat("file").st_uid, 1234u);
  EXPECT_EQ(dir.stat("file").st_gid, 567u);
  EXPECT_EQ(dir.stat("file").st_mode & 07777, 04755u);
  ASSERT_EQ(::chown((dir / "dir").c_str(), 1, 2), 0);
  ASSERT_EQ(::chmod((dir / "dir").c_str(), 02775), 0);
  EXPECT_EQ(client->mkdir(client->node("dir"), "inner", 0755).error, 0);
  EXPECT_EQ(dir.stat("dir/inner").st_gid, 2u);
  EXPECT_EQ(dir.stat("dir/inner").st_mode & 07777, 02755u);
}

TEST_F(NamesTest, TheOwnerCanBeShownAsSomebodyElse) {
  dir.put("file", "");
  auto with = options();
  with.shown_uid = ::geteuid() + 4242;
  make(with);
  EXPECT_EQ(client->attributes(client->node("file")).uid, ::geteuid() + 4242);
  fuse_setattr_in in{};
  in.valid = FATTR_UID;
  in.uid = ::geteuid() + 4242;
  EXPECT_EQ(client->setattr(client->node("file"), in).error, 0);
  EXPECT_EQ(dir.stat("file").st_uid, ::geteuid());
}

TEST_F(NamesTest, DeviceNodesAreNotMade) {
  make();
  EXPECT_EQ(client->mknod(kRoot, "disk", S_IFBLK | 0666, (8u << 8) | 0).error, EPERM);
  EXPECT_EQ(client->mknod(kRoot, "mem", S_IFCHR | 0666, (1u << 8) | 1).error, EPERM);
  EXPECT_FALSE(dir.exists("disk"));
  // 0:0 is overlayfs' whiteout.
  if (::geteuid() == 0) {
    EXPECT_EQ(client->mknod(kRoot, "whiteout", S_IFCHR, 0).error, 0);
  }
}

TEST_F(NamesTest, HardLinksAreOneNode) {
  dir.put("one", "x");
  make();
  const std::uint64_t one = client->node("one");
  const auto linked = client->link(kRoot, "two", one);
  ASSERT_EQ(linked.error, 0);
  EXPECT_EQ(linked.as<fuse_entry_out>().nodeid, one);
  EXPECT_EQ(linked.as<fuse_entry_out>().attr.nlink, 2u);
  EXPECT_EQ(dir.stat("two").st_ino, dir.stat("one").st_ino);
  EXPECT_EQ(client->unlink(kRoot, "two").error, 0);
  EXPECT_EQ(client->attributes(one).nlink, 1u);
  EXPECT_EQ(client->node("one"), one);
}

TEST_F(NamesTest, AFileThatIsGoneStaysReachableForWhoKnowsIt) {
  dir.put("file", "still here");
  make();
  const std::uint64_t file = client->node("file");
  EXPECT_EQ(client->unlink(kRoot, "file").error, 0);
  EXPECT_FALSE(dir.exists("file"));
  EXPECT_EQ(client->lookup(kRoot, "file").error, ENOENT);
  EXPECT_EQ(client->attributes(file).nlink, 0u);
  const std::uint64_t handle = client->open(file, O_RDONLY);
  EXPECT_EQ(client->read_text(file, handle), "still here");
  client->release(file, handle);
  client->forget(file, 1);
  EXPECT_EQ(client->getattr(file).error, ESTALE);
}

TEST_F(NamesTest, RemovingGivesTheHostsErrors) {
  std::filesystem::create_directories(dir / "full/x");
  dir.put("file", "");
  make();
  EXPECT_EQ(client->rmdir(kRoot, "full").error, ENOTEMPTY);
  EXPECT_EQ(client->rmdir(kRoot, "file").error, ENOTDIR);
  EXPECT_EQ(client->unlink(kRoot, "full").error, EISDIR);
  EXPECT_EQ(client->unlink(kRoot, "none").error, ENOENT);
  EXPECT_EQ(client->rmdir(client->node("full"), "x").error, 0);
  EXPECT_EQ(client->rmdir(kRoot, "full").error, 0);
  EXPECT_FALSE(dir.exists("full"));
}

TEST_F(NamesTest, RenameMovesNodesWithTheirNames) {
  std::filesystem::create_directories(dir / "a/deep");
  std::filesystem::create_directory(dir / "b");
  dir.put("a/deep/file", "x");
  auto with = options();
  with.most_descriptors = 64;
  make(with);
  const std::uint64_t a = client->node("a"), b = client->node("b"), file = client->node("a/deep/file");
  EXPECT_EQ(client->rename(kRoot, "a", b, "moved").error, 0);
  EXPECT_TRUE(dir.exists("b/moved/deep/file"));
  for (int i = 0; i < 60; ++i) {  // push descriptors out
    std::filesystem::create_directory(dir / ("d" + std::to_string(i)));
    client->lookup(client->node("d" + std::to_string(i)), "none");
  }
  EXPECT_EQ(client->attributes(file).size, 1u);
  EXPECT_EQ(client->node("b/moved"), a);
  EXPECT_EQ(client->rename(b, "moved", a, "into-itself").error, EINVAL);
}

TEST_F(NamesTest, RenameReplacesAndKeepsWhatWasReplaced) {
  dir.put("old", "old");
  dir.put("new", "new");
  make();
  const std::uint64_t old = client->node("old"), fresh = client->node("new");
  EXPECT_EQ(client->rename(kRoot, "new", kRoot, "old", RENAME_NOREPLACE).error, EEXIST);
  EXPECT_EQ(client->rename(kRoot, "new", kRoot, "old").error, 0);
  EXPECT_EQ(dir.get("old"), "new");
  EXPECT_EQ(client->node("old"), fresh);
  EXPECT_EQ(client->read_text(old, client->open(old, O_RDONLY)), "old");
  EXPECT_EQ(client->attributes(old).nlink, 0u);
}

TEST_F(NamesTest, RenameExchanges) {
  dir.put("one", "1");
  std::filesystem::create_directory(dir / "two");
  make();
  const std::uint64_t one = client->node("one"), two = client->node("two");
  EXPECT_EQ(client->rename(kRoot, "one", kRoot, "two", RENAME_EXCHANGE).error, 0);
  EXPECT_EQ(dir.get("two"), "1");
  EXPECT_EQ(client->node("two"), one);
  EXPECT_EQ(client->node("one"), two);
  EXPECT_EQ(client->rename(kRoot, "one", kRoot, "none", RENAME_EXCHANGE).error, ENOENT);
  EXPECT_EQ(client->rename(kRoot, "one", kRoot, "two", 0x80).error, EINVAL);
}

TEST_F(NamesTest, RenameOfTwoLinksToOneFileKeepsBoth) {
  dir.put("one", "1");
  std::filesystem::create_hard_link(dir / "one", dir / "two");
  make();
  EXPECT_EQ(client->rename(kRoot, "one", kRoot, "two").error, 0);
  EXPECT_TRUE(dir.exists("one") && dir.exists("two"));
  EXPECT_EQ(client->attributes(client->node("one")).nlink, 2u);
}

TEST_F(NamesTest, SetattrDoesWhatTheSystemCallsDo) {
  dir.put("file", "0123456789");
  make();
  const std::uint64_t file = client->node("file");
  fuse_setattr_in in{};
  in.valid = FATTR_MODE | FATTR_SIZE | FATTR_ATIME | FATTR_MTIME;
  in.mode = S_IFREG | 0600;
  in.size = 4;
  in.atime = 1'000'000'000;
  in.atimensec = 5;
  in.mtime = 1'500'000'000;
  in.mtimensec = 123'456'789;
  const auto answer = client->setattr(file, in);
  ASSERT_EQ(answer.error, 0);
  expect_same(answer.as<fuse_attr_out>().attr, dir.stat("file"));
  const auto host = dir.stat("file");
  EXPECT_EQ(dir.get("file"), "0123");
  EXPECT_EQ(host.st_mode & 07777, 0600u);
  EXPECT_EQ(host.st_atim.tv_sec, 1'000'000'000);
  EXPECT_EQ(host.st_mtim.tv_sec, 1'500'000'000);
  EXPECT_EQ(host.st_mtim.tv_nsec, 123'456'789);
  in.valid = FATTR_MTIME;
  in.mtimensec = 1'000'000'000;
  EXPECT_EQ(client->setattr(file, in).error, EINVAL);
  in.valid = FATTR_ATIME | FATTR_ATIME_NOW;
  EXPECT_EQ(client->setattr(file, in).error, 0);
  EXPECT_GT(dir.stat("file").st_atim.tv_sec, 1'500'000'000);
  EXPECT_EQ(dir.stat("file").st_mtim.tv_sec, 1'500'000'000);
}

TEST_F(NamesTest, DirectoriesAreListedOnceAndWhole) {
  std::set<std::string> expected = {".", ".."};
  std::filesystem::create_directory(dir / "large");
  for (int i = 0; i < 3000; ++i) {
    const std::string name = "entry-" + std::to_string(i) + std::string(static_cast<std::size_t>(i % 200), 'n');
    dir.put("large/" + name, "");
    expected.insert(name);
  }
  make();
  const std::uint64_t large = client->node("large");
  for (const bool plus : {false, true}) {
    std::set<std::string> seen;
    for (const auto& one : client->list(large, 1024, plus)) {
      EXPECT_TRUE(seen.insert(one.name).second) << one.name;
      if (one.name[0] == '.') continue;
      EXPECT_EQ(one.type, static_cast<unsigned>(DT_REG));
      if (plus) {
        EXPECT_NE(one.entry.nodeid, 0u);
        EXPECT_EQ(one.entry.attr.ino, one.inode);
      }
    }
    EXPECT_EQ(seen, expected);
  }
}

TEST_F(NamesTest, ReaddirGoesOnWhereItIsToldTo) {
  for (int i = 0; i < 100; ++i) dir.put(std::to_string(i), "");
  make();
  const std::uint64_t handle = client->open(kRoot, O_RDONLY, true);
  const auto first = client->readdir(kRoot, handle, 0, 1024, false);
  ASSERT_GT(first.size(), 4u);
  const auto second = client->readdir(kRoot, handle, first.back().offset, 1024, false);
  const auto again = client->readdir(kRoot, handle, first[2].offset, 1024, false);
  ASSERT_FALSE(again.empty());
  EXPECT_EQ(again.front().name, first[3].name);
  const auto third = client->readdir(kRoot, handle, first.back().offset, 1024, false);
  ASSERT_EQ(third.size(), second.size());
  EXPECT_EQ(third.back().name, second.back().name);
  int error = 0;
  client->readdir(kRoot, handle, 0, 16, false, &error);
  EXPECT_EQ(error, EINVAL);
}

TEST_F(NamesTest, ThousandsOfNodesTakeFewDescriptors) {
  const auto descriptors = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), std::filesystem::directory_iterator());
  };
  std::vector<std::string> names;
  for (int i = 0; i < 50; ++i) {
    std::filesystem::create_directory(dir / ("d" + std::to_string(i)));
    for (int j = 0; j < 40; ++j) {
      names.push_back("d" + std::to_string(i) + "/" + std::to_string(j));
      dir.put(names.back(), std::string(static_cast<std::size_t>(j), 'x'));
    }
  }
  auto with = options();
  with.most_descriptors = 64;
  const auto before = descriptors();
  make(with);
  std::vector<std::uint64_t> nodes;
  for (const std::string& name : names) nodes.push_back(client->node(name));
  EXPECT_LE(descriptors() - before, 40);
  for (std::size_t i = 0; i < names.size(); ++i) EXPECT_EQ(client->attributes(nodes[i]).size, i % 40) << names[i];
  // Files that have lost their names need one each: there is an end to that.
  for (std::size_t i = 0; i < 100; ++i)
    EXPECT_EQ(client->unlink(client->node("d" + std::to_string(i / 40)), std::to_string(i % 40)).error, 0);
  EXPECT_LE(descriptors() - before, 64);
  EXPECT_EQ(client->getattr(nodes[0]).error, 0);
  EXPECT_EQ(client->getattr(nodes[99]).error, ESTALE);
}

TEST_F(NamesTest, ForgottenNodesAreGoneAndNumbersAreNotUsedAgain) {
  std::filesystem::create_directories(dir / "a/b");
  make();
  const std::uint64_t a = client->node("a"), b = client->node("a/b");
  client->forget(a, 1'000'000);  // more than there were; its child holds it
  EXPECT_EQ(client->getattr(b).error, 0);
  client->forget(b, ~0ull);
  EXPECT_EQ(client->getattr(b).error, ESTALE);
  EXPECT_EQ(client->getattr(a).error, ESTALE);
  client->forget(b, 1);
  client->forget(0, 1);
  client->forget(kRoot, 100);
  EXPECT_EQ(client->getattr(kRoot).error, 0);
  EXPECT_NE(client->node("a"), a);
  EXPECT_EQ(client->getattr(0xFFFF'FFFF'FFFF'FFFF).error, ESTALE);
}

TEST_F(NamesTest, BatchForgetForgetsEach) {
  dir.put("a", "");
  dir.put("b", "");
  make();
  const std::uint64_t a = client->node("a"), b = client->node("b");
  fuse_batch_forget_in head{.count = 1000, .dummy = 0};
  const fuse_forget_one list[] = {{a, 1}, {b, 1}};
  client->ask(FUSE_BATCH_FORGET, 0, FuseClient::join(FuseClient::bytes_of(head), FuseClient::bytes_of(list)), 0);
  EXPECT_EQ(client->getattr(a).error, ESTALE);
  EXPECT_EQ(client->getattr(b).error, ESTALE);
}

TEST_F(NamesTest, AMovedDirectoryIsFoundAgainByItsNewName) {
  std::filesystem::create_directories(dir / "a/b/c");
  make();
  const std::uint64_t b = client->node("a/b"), c = client->node("a/b/c");
  // Host and guest at the same time: what is known of the parents would come to a circle.
  std::filesystem::rename(dir / "a/b", dir / "b");
  std::filesystem::rename(dir / "a", dir / "b/c/a");
  EXPECT_EQ(client->node("b"), b);
  EXPECT_EQ(client->node("b/c"), c);
  EXPECT_NE(client->node("b/c/a"), 0u);
  EXPECT_EQ(client->getattr(c).error, 0);
  for (int i = 0; i < 3; ++i) EXPECT_NE(client->node("b/c/a"), 0u);
}

TEST_F(NamesTest, ExtendedAttributesOfTheUserAreShown) {
  dir.put("file", "");
  if (::setxattr((dir / "file").c_str(), "user.one", "1", 1, 0) != 0) GTEST_SKIP() << "no user attributes here";
  make();
  const std::uint64_t file = client->node("file");
  const auto get = [&](const std::string& name, std::uint32_t size) {
    return client->ask(FUSE_GETXATTR, file,
                       FuseClient::join(FuseClient::bytes_of(fuse_getxattr_in{size, 0}), FuseClient::text(name)));
  };
  EXPECT_EQ(get("user.one", 0).as<fuse_getxattr_out>().size, 1u);
  EXPECT_EQ(get("user.one", 10).data, (FuseClient::Bytes{'1'}));
  EXPECT_EQ(get("user.none", 10).error, ENODATA);
  EXPECT_EQ(get("trusted.overlay.opaque", 10).error, EOPNOTSUPP);
  struct {
    std::uint32_t size, flags;  // the form without FUSE_SETXATTR_EXT
  } set{5, XATTR_CREATE};
  auto args = FuseClient::join(FuseClient::bytes_of(set), FuseClient::text("user.two"));
  for (const char c : std::string("value")) args.push_back(static_cast<std::uint8_t>(c));
  EXPECT_EQ(client->ask(FUSE_SETXATTR, file, args).error, 0);
  EXPECT_EQ(client->ask(FUSE_SETXATTR, file, args).error, EEXIST);
  char value[16];
  EXPECT_EQ(::getxattr((dir / "file").c_str(), "user.two", value, sizeof value), 5);
  const auto listed = client->ask(FUSE_LISTXATTR, file, FuseClient::bytes_of(fuse_getxattr_in{1000, 0}));
  std::set<std::string> names;
  for (std::size_t at = 0; at < listed.data.size();
       at += std::strlen(reinterpret_cast<const char*>(&listed.data[at])) + 1)
    names.insert(reinterpret_cast<const char*>(&listed.data[at]));
  EXPECT_EQ(names, (std::set<std::string>{"user.one", "user.two"}));
  EXPECT_EQ(client->ask(FUSE_LISTXATTR, file, FuseClient::bytes_of(fuse_getxattr_in{3, 0})).error, ERANGE);
  EXPECT_EQ(client->ask(FUSE_REMOVEXATTR, file, FuseClient::text("user.two")).error, 0);
  EXPECT_LT(::getxattr((dir / "file").c_str(), "user.two", value, sizeof value), 0);
}

TEST_F(NamesTest, StatfsTellsTheHostsFigures) {
  make();
  struct statfs host{};
  ASSERT_EQ(::statfs(dir.root().c_str(), &host), 0);
  const auto out = client->ask(FUSE_STATFS, kRoot, {}).as<fuse_statfs_out>().st;
  EXPECT_EQ(out.blocks, host.f_blocks);
  EXPECT_EQ(out.bsize, static_cast<std::uint32_t>(host.f_bsize));
  EXPECT_EQ(out.files, host.f_files);
  EXPECT_EQ(out.namelen, 255u);
}

TEST_F(NamesTest, AReadOnlyShareChangesNothing) {
  dir.put("file", "content");
  std::filesystem::create_directory(dir / "sub");
  auto with = options();
  with.read_only = true;
  make(with);
  const std::uint64_t file = client->node("file");
  const auto before = dir.stat("file");
  EXPECT_EQ(client->create(kRoot, "new", O_RDWR, 0644).error, EROFS);
  EXPECT_EQ(client->mkdir(kRoot, "new", 0755).error, EROFS);
  EXPECT_EQ(client->mknod(kRoot, "new", S_IFREG | 0644).error, EROFS);
  EXPECT_EQ(client->symlink(kRoot, "new", "x").error, EROFS);
  EXPECT_EQ(client->link(kRoot, "new", file).error, EROFS);
  EXPECT_EQ(client->unlink(kRoot, "file").error, EROFS);
  EXPECT_EQ(client->rmdir(kRoot, "sub").error, EROFS);
  EXPECT_EQ(client->rename(kRoot, "file", kRoot, "new").error, EROFS);
  EXPECT_EQ(client->open_answer(file, O_RDWR).error, EROFS);
  EXPECT_EQ(client->open_answer(file, O_WRONLY).error, EROFS);
  EXPECT_EQ(client->open_answer(file, O_RDONLY | O_TRUNC).error, EROFS);
  fuse_setattr_in in{};
  in.valid = FATTR_MODE | FATTR_SIZE;
  EXPECT_EQ(client->setattr(file, in).error, EROFS);
  const std::uint64_t handle = client->open(file, O_RDONLY);
  EXPECT_EQ(client->write(file, handle, 0, "x").error, EROFS);
  EXPECT_EQ(client->read_text(file, handle), "content");
  EXPECT_EQ(client->ask(FUSE_SETXATTR, file, FuseClient::Bytes(64)).error, EROFS);
  EXPECT_EQ(client->ask(FUSE_FALLOCATE, file, FuseClient::Bytes(64)).error, EROFS);
  EXPECT_EQ(client->ask(FUSE_ACCESS, file, FuseClient::bytes_of(fuse_access_in{W_OK, 0})).error, EROFS);
  EXPECT_EQ(client->ask(FUSE_ACCESS, file, FuseClient::bytes_of(fuse_access_in{R_OK, 0})).error, 0);
  EXPECT_EQ(dir.stat("file").st_ctim.tv_nsec, before.st_ctim.tv_nsec);
  EXPECT_FALSE(dir.exists("new"));
}

TEST_F(NamesTest, WhatIsNoRequestGetsAnErrorOrNothing) {
  make();
  EXPECT_EQ(client->wait(client->send_raw({}, 64)).written, 0u);
  EXPECT_EQ(client->wait(client->send_raw(FuseClient::Bytes(39, 0xFF), 64)).written, 0u);
  fuse_in_header header{};
  header.opcode = FUSE_GETATTR;
  header.nodeid = kRoot;
  header.unique = 77;
  for (const std::uint32_t length : {0u, 39u, 41u, 0xFFFF'FFFFu}) {
    header.len = length;
    EXPECT_EQ(client->wait(client->send_raw(FuseClient::bytes_of(header), 64)).written, 16u) << length;
  }
  header.len = sizeof header;
  EXPECT_EQ(client->wait(client->send_raw(FuseClient::bytes_of(header), 15)).written, 0u);
  EXPECT_EQ(client->ask(FUSE_GETATTR, kRoot, FuseClient::Bytes(16), 20).error, EIO);
  for (std::uint32_t op = 0; op < 70; ++op) {
    if (op == FUSE_INIT || op == FUSE_DESTROY) continue;
    client->ask(op, kRoot, {});
    client->ask(op, kRoot, FuseClient::Bytes(3, 'x'));
    client->ask(op, 0, FuseClient::Bytes(200, 0xFF));
  }
  EXPECT_EQ(client->ask(FUSE_IOCTL, kRoot, FuseClient::Bytes(32)).error, ENOSYS);
  EXPECT_EQ(client->getattr(kRoot).error, 0);
}

TEST_F(NamesTest, ASharedFileIsNoDirectory) {
  dir.put("file", "");
  Log log;
  EXPECT_FALSE(Server::create({.root = (dir / "file").string()}, log));
  const auto missing = Server::create({.root = (dir / "none").string()}, log);
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().text(), ::testing::HasSubstr("none"));
}

TEST_F(NamesTest, ANewSessionKnowsNothingOfTheOneBefore) {
  dir.put("file", "");
  make();
  const std::uint64_t file = client->node("file");
  const std::uint64_t handle = client->open(file, O_RDONLY);
  EXPECT_EQ(client->init().error, 0);
  EXPECT_EQ(client->getattr(file).error, ESTALE);
  EXPECT_EQ(client->read(file, handle, 0, 10).error, EBADF);
  EXPECT_EQ(client->ask(FUSE_DESTROY, 0, {}).error, 0);
  EXPECT_EQ(client->lookup(kRoot, "file").error, EIO);
}

}  // namespace
}  // namespace husk::hostfs
