// husk: tests of the 9P server against the host's system calls, in messages laid out as Linux' client lays them out
#include <linux/magic.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>

#include <array>

#include "base/bits.h"
#include "hostfs/fuse_client.h"

namespace husk::hostfs {
namespace {

using Bytes = std::vector<std::uint8_t>;

// Linux, include/net/9p/9p.h.
enum : std::uint8_t {
  kTstatfs = 8,
  kTlopen = 12,
  kTlcreate = 14,
  kTsymlink = 16,
  kTmknod = 18,
  kTrename = 20,
  kTreadlink = 22,
  kTgetattr = 24,
  kTsetattr = 26,
  kTxattrwalk = 30,
  kTxattrcreate = 32,
  kTreaddir = 40,
  kTfsync = 50,
  kTlock = 52,
  kTgetlock = 54,
  kTlink = 70,
  kTmkdir = 72,
  kTrenameat = 74,
  kTunlinkat = 76,
  kTversion = 100,
  kTauth = 102,
  kTattach = 104,
  kTflush = 108,
  kTwalk = 110,
  kTread = 116,
  kTwrite = 118,
  kTclunk = 120,
  kTremove = 122,
};
constexpr std::uint32_t kNoFid = ~0u;
constexpr std::uint64_t kBasic = 0x7FF;
constexpr std::uint32_t kRemoveDirectory = 0x200;

/// The body of a message.
class Body {
 public:
  Body& u8(unsigned value) { return put(value, 1); }
  Body& u16(unsigned value) { return put(value, 2); }
  Body& u32(std::uint64_t value) { return put(value, 4); }
  Body& u64(std::uint64_t value) { return put(value, 8); }
  Body& text(const std::string& text) {
    u16(static_cast<unsigned>(text.size()));
    bytes_.insert(bytes_.end(), text.begin(), text.end());
    return *this;
  }
  Body& data(const std::string& data) {
    u32(data.size());
    bytes_.insert(bytes_.end(), data.begin(), data.end());
    return *this;
  }
  const Bytes& bytes() const { return bytes_; }

 private:
  Body& put(std::uint64_t value, unsigned size) {
    for (unsigned i = 0; i < size; ++i) bytes_.push_back(static_cast<std::uint8_t>(value >> (i * 8)));
    return *this;
  }
  Bytes bytes_;
};

struct Reply {
  bool done = false;
  std::uint64_t written = 0;
  std::uint8_t type = 0;
  std::uint16_t tag = 0;
  int error = 0;
  Bytes body;
  std::uint64_t number(std::size_t at, unsigned size) const {
    std::uint64_t value = 0;
    for (unsigned i = 0; i < size && at + i < body.size(); ++i) value |= std::uint64_t{body[at + i]} << (i * 8);
    return value;
  }
  std::string text(std::size_t at, std::size_t length) const {
    if (at + length > body.size()) return "(short)";
    return {body.begin() + static_cast<std::ptrdiff_t>(at), body.begin() + static_cast<std::ptrdiff_t>(at + length)};
  }
};

class NinepClient {
 public:
  explicit NinepClient(ServerOptions options) {
    server_ = Server::create(std::move(options), log_).value();
    port_ = server_->attach_ninep(domain_);
  }
  ~NinepClient() { port_->drain(); }
  core::ShareBackend& port() { return *port_; }
  mem::LockDomain& domain() { return domain_; }

  std::uint16_t send(std::uint8_t type, const Body& body, std::size_t room = 65536) {
    Bytes message(7);
    store_le<std::uint32_t>(&message[0], static_cast<std::uint32_t>(7 + body.bytes().size()));
    message[4] = type;
    const std::uint16_t tag = next_++;
    store_le<std::uint16_t>(&message[5], tag);
    message.insert(message.end(), body.bytes().begin(), body.bytes().end());
    return send_raw(tag, message, room);
  }
  std::uint16_t send_raw(std::uint16_t tag, const Bytes& message, std::size_t room) {
    auto flight = std::make_unique<Flight>();
    // In two pieces each, as drivers send it.
    const std::size_t split = std::min<std::size_t>(message.size(), 23);
    flight->in.assign(message.begin(), message.begin() + static_cast<std::ptrdiff_t>(split));
    flight->more.assign(message.begin() + static_cast<std::ptrdiff_t>(split), message.end());
    flight->ins = {flight->in, flight->more};
    flight->out.resize(std::min<std::size_t>(room, 11));
    flight->room.resize(room - flight->out.size());
    flight->outs = {flight->out, flight->room};
    Flight* const raw = flight.get();
    {
      const std::lock_guard lock(mutex_);
      flights_[tag] = std::move(flight);
    }
    core::ShareRequest request;
    request.in = raw->ins;
    request.out = raw->outs;
    request.completion = [this, raw](std::uint64_t written) {
      EXPECT_TRUE(domain_.held());
      const std::lock_guard lock(mutex_);
      raw->reply.written = written;
      raw->reply.done = true;
      changed_.notify_all();
    };
    const mem::DomainGuard guard(&domain_);
    port_->submit(std::move(request));
    return tag;
  }
  bool answered(std::uint16_t tag) {
    const std::lock_guard lock(mutex_);
    return flights_.at(tag)->reply.done;
  }
  Reply wait(std::uint16_t tag) {
    std::unique_lock lock(mutex_);
    Flight& flight = *flights_.at(tag);
    changed_.wait(lock, [&] { return flight.reply.done; });
    Reply reply = flight.reply;
    Bytes all = flight.out;
    all.insert(all.end(), flight.room.begin(), flight.room.end());
    flights_.erase(tag);
    if (reply.written < 7) return reply;
    EXPECT_EQ(load_le<std::uint32_t>(&all[0]), reply.written);
    reply.type = all[4];
    reply.tag = load_le<std::uint16_t>(&all[5]);
    reply.body.assign(all.begin() + 7, all.begin() + static_cast<std::ptrdiff_t>(reply.written));
    if (reply.type == 7) reply.error = static_cast<int>(reply.number(0, 4));
    return reply;
  }
  Reply ask(std::uint8_t type, const Body& body, std::size_t room = 65536) {
    const std::uint16_t tag = send(type, body, room);
    Reply reply = wait(tag);
    EXPECT_EQ(reply.tag, tag);
    if (!reply.error && reply.written) {
      EXPECT_EQ(reply.type, type + 1);
    }
    return reply;
  }

  // ---- the messages ----
  Reply version(std::uint32_t size = 65536, const std::string& version = "9P2000.L") {
    return ask(kTversion, Body().u32(size).text(version));
  }
  Reply attach(std::uint32_t fid = 0, const std::string& tree = "", std::uint32_t user = 0) {
    return ask(kTattach, Body().u32(fid).u32(kNoFid).text("root").text(tree).u32(user));
  }
  Reply walk(std::uint32_t fid, std::uint32_t to, const std::vector<std::string>& names) {
    Body body;
    body.u32(fid).u32(to).u16(static_cast<unsigned>(names.size()));
    for (const std::string& name : names) body.text(name);
    return ask(kTwalk, body);
  }
  Reply open(std::uint32_t fid, std::uint32_t flags = O_RDONLY) { return ask(kTlopen, Body().u32(fid).u32(flags)); }
  Reply create(std::uint32_t fid, const std::string& name, std::uint32_t flags, std::uint32_t mode) {
    return ask(kTlcreate, Body().u32(fid).text(name).u32(flags).u32(mode).u32(::getegid()));
  }
  Reply read(std::uint32_t fid, std::uint64_t offset, std::uint32_t count) {
    return ask(kTread, Body().u32(fid).u64(offset).u32(count));
  }
  std::string content(std::uint32_t fid, std::uint64_t offset = 0, std::uint32_t count = 4096) {
    const Reply reply = read(fid, offset, count);
    return reply.error ? "(error)" : reply.text(4, reply.number(0, 4));
  }
  Reply write(std::uint32_t fid, std::uint64_t offset, const std::string& data) {
    return ask(kTwrite, Body().u32(fid).u64(offset).data(data));
  }
  Reply clunk(std::uint32_t fid) { return ask(kTclunk, Body().u32(fid)); }
  Reply getattr(std::uint32_t fid) { return ask(kTgetattr, Body().u32(fid).u64(kBasic)); }
  Reply setattr(std::uint32_t fid, std::uint32_t valid, std::uint32_t mode, std::uint64_t size = 0,
                std::array<std::uint64_t, 4> times = {}) {
    return ask(kTsetattr, Body()
                              .u32(fid)
                              .u32(valid)
                              .u32(mode)
                              .u32(::geteuid())
                              .u32(::getegid())
                              .u64(size)
                              .u64(times[0])
                              .u64(times[1])
                              .u64(times[2])
                              .u64(times[3]));
  }
  Reply lock(std::uint32_t fid, unsigned type, std::uint32_t process, std::uint64_t start = 0,
             std::uint64_t length = 0) {
    return ask(kTlock, lock_body(fid, type, 0, process, start, length));
  }
  static Body lock_body(std::uint32_t fid, unsigned type, std::uint32_t flags, std::uint32_t process,
                        std::uint64_t start = 0, std::uint64_t length = 0) {
    return Body().u32(fid).u8(type).u32(flags).u64(start).u64(length).u32(process).text("guest");
  }

 private:
  struct Flight {
    Bytes in, more, out, room;
    std::vector<core::ShareSpan> ins, outs;
    Reply reply;
  };
  Log log_{[](LogLevel, std::string_view) {}};
  mem::LockDomain domain_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<core::ShareBackend> port_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint16_t, std::unique_ptr<Flight>> flights_;
  std::uint16_t next_ = 1;
};

struct NinepTest : ::testing::Test {
  void make(ServerOptions options) {
    client.emplace(std::move(options));
    ASSERT_EQ(client->version().error, 0);
    ASSERT_EQ(client->attach().error, 0);
  }
  void make() { make({.root = dir.root()}); }
  /// An open fid of a path below the root.
  void open(std::uint32_t fid, const std::vector<std::string>& path, std::uint32_t flags = O_RDONLY) {
    ASSERT_EQ(client->walk(0, fid, path).error, 0);
    ASSERT_EQ(client->open(fid, flags).error, 0);
  }
  struct Name {
    std::uint64_t inode, next;
    std::uint8_t qid_type, type;
    std::string name;
  };
  std::vector<Name> names(std::uint32_t fid, std::uint32_t count = 4096) {
    std::vector<Name> all;
    for (std::uint64_t offset = 0;;) {
      const Reply reply = client->ask(kTreaddir, Body().u32(fid).u64(offset).u32(count));
      EXPECT_EQ(reply.error, 0);
      std::size_t at = 4;
      EXPECT_EQ(reply.number(0, 4) + 4, reply.body.size());
      if (at >= reply.body.size()) return all;
      while (at < reply.body.size()) {
        const std::size_t length = reply.number(at + 22, 2);
        all.push_back({reply.number(at + 5, 8), reply.number(at + 13, 8), reply.body[at], reply.body[at + 21],
                       reply.text(at + 24, length)});
        at += 24 + length;
      }
      offset = all.back().next;
    }
  }
  void expect_same(const Reply& shown, const struct stat& host) {
    ASSERT_EQ(shown.error, 0);
    ASSERT_EQ(shown.body.size(), 153u);
    EXPECT_EQ(shown.number(0, 8), kBasic);
    EXPECT_EQ(shown.number(13, 8), host.st_ino);
    EXPECT_EQ(shown.body[8], S_ISDIR(host.st_mode) ? 0x80 : S_ISLNK(host.st_mode) ? 2 : 0);
    EXPECT_EQ(shown.number(21, 4), host.st_mode);
    EXPECT_EQ(shown.number(25, 4), host.st_uid);
    EXPECT_EQ(shown.number(29, 4), host.st_gid);
    EXPECT_EQ(shown.number(33, 8), host.st_nlink);
    EXPECT_EQ(shown.number(41, 8), host.st_rdev);
    EXPECT_EQ(shown.number(49, 8), static_cast<std::uint64_t>(host.st_size));
    EXPECT_EQ(shown.number(57, 8), static_cast<std::uint64_t>(host.st_blksize));
    EXPECT_EQ(shown.number(65, 8), static_cast<std::uint64_t>(host.st_blocks));
    EXPECT_EQ(shown.number(89, 8), static_cast<std::uint64_t>(host.st_mtim.tv_sec));
    EXPECT_EQ(shown.number(97, 8), static_cast<std::uint64_t>(host.st_mtim.tv_nsec));
    EXPECT_EQ(shown.number(105, 8), static_cast<std::uint64_t>(host.st_ctim.tv_sec));
  }
  SharedDirectory dir;
  std::optional<NinepClient> client;
};

TEST_F(NinepTest, VersionAndMessageSizeAreAgreedOn) {
  client.emplace(ServerOptions{.root = dir.root()});
  EXPECT_EQ(client->attach().error, EIO) << "nothing before a version";
  Reply reply = client->version(8192);
  EXPECT_EQ(reply.number(0, 4), 8192u);
  EXPECT_EQ(reply.text(6, reply.number(4, 2)), "9P2000.L");
  EXPECT_EQ(client->version(1 << 30).number(0, 4), 1u << 20);
  EXPECT_EQ(client->version(4095).error, EMSGSIZE);
  for (const char* other : {"9P2000", "9P2000.u", ""}) {
    reply = client->version(8192, other);
    EXPECT_EQ(reply.text(6, reply.number(4, 2)), "unknown");
    EXPECT_EQ(client->attach().error, EIO);
  }
  ASSERT_EQ(client->version(4096).error, 0);
  ASSERT_EQ(client->attach().error, 0);
  EXPECT_EQ(client->ask(kTmkdir, Body().u32(0).text(std::string(5000, 'x')).u32(0755).u32(0)).error, EMSGSIZE);
  EXPECT_EQ(client->ask(kTauth, Body().u32(1).text("").text("").u32(0)).error, EOPNOTSUPP);
}

TEST_F(NinepTest, ANewVersionEndsTheSessionBefore) {
  dir.put("file", "x");
  make();
  open(1, {"file"});
  ASSERT_EQ(client->version().error, 0);
  EXPECT_EQ(client->read(1, 0, 10).error, EBADF);
  EXPECT_EQ(client->getattr(0).error, EBADF);
}

TEST_F(NinepTest, AttachGoesToADirectoryOfTheShareAndNoFurther) {
  std::filesystem::create_directories(dir / "a/b");
  dir.put("a/b/file", "deep");
  std::filesystem::create_directory_symlink("/", dir / "out");
  make();
  ASSERT_EQ(client->attach(5, "/a/b").error, 0);
  ASSERT_EQ(client->walk(5, 6, {"file"}).error, 0);
  ASSERT_EQ(client->open(6).error, 0);
  EXPECT_EQ(client->content(6), "deep");
  EXPECT_EQ(client->attach(7, "none").error, ENOENT);
  EXPECT_NE(client->attach(7, "out/etc").error, 0);
  EXPECT_EQ(client->attach(5).error, EINVAL) << "a fid that is in use";
  EXPECT_EQ(client->attach(kNoFid).error, EINVAL);
}

TEST_F(NinepTest, WalkGoesAsFarAsItCan) {
  std::filesystem::create_directories(dir / "a/b");
  make();
  Reply reply = client->walk(0, 1, {"a", "b"});
  EXPECT_EQ(reply.number(0, 2), 2u);
  EXPECT_EQ(reply.number(2 + 13 + 5, 8), dir.stat("a/b").st_ino);
  reply = client->walk(0, 2, {"a", "none", "x"});
  EXPECT_EQ(reply.error, 0);
  EXPECT_EQ(reply.number(0, 2), 1u);
  EXPECT_EQ(client->getattr(2).error, EBADF) << "then there is no new fid";
  EXPECT_EQ(client->walk(0, 2, {"none"}).error, ENOENT);
  EXPECT_EQ(client->walk(0, 2, {}).number(0, 2), 0u);
  EXPECT_EQ(client->walk(2, 2, {"a"}).error, 0) << "a fid can walk itself";
  expect_same(client->getattr(2), dir.stat("a"));
  EXPECT_EQ(client->walk(0, 1, {"a"}).error, EINVAL) << "in use";
  EXPECT_EQ(client->walk(77, 3, {}).error, EBADF);
  EXPECT_EQ(client->walk(0, 3, std::vector<std::string>(17, "a")).error, EINVAL);
}

TEST_F(NinepTest, DotDotStopsAtTheRoot) {
  std::filesystem::create_directories(dir / "a/b");
  make();
  ASSERT_EQ(client->walk(0, 1, {"a", "b"}).error, 0);
  ASSERT_EQ(client->walk(1, 2, {"..", "..", "..", ".."}).error, 0);
  expect_same(client->getattr(2), dir.stat(""));
  ASSERT_EQ(client->walk(1, 3, {"..", "b"}).error, 0);
  expect_same(client->getattr(3), dir.stat("a/b"));
}

TEST_F(NinepTest, NamesThatAreNoSingleComponentAreRefused) {
  make();
  std::ofstream(dir.outside("secret")) << "secret";
  dir.put("file", "");
  ASSERT_EQ(client->walk(0, 1, {"file"}).error, 0);
  for (const std::string& name : {std::string(), std::string("."), std::string("../secret"), std::string("/etc/passwd"),
                                  std::string("a/b"), std::string("a\0b", 3)})
    EXPECT_EQ(client->walk(0, 9, {name}).error, EINVAL) << name;
  EXPECT_EQ(client->walk(0, 9, {std::string(256, 'x')}).error, ENAMETOOLONG);
  EXPECT_EQ(client->ask(kTmkdir, Body().u32(0).text("..").u32(0755).u32(0)).error, EINVAL);
  EXPECT_EQ(client->ask(kTsymlink, Body().u32(0).text("a/b").text("x").u32(0)).error, EINVAL);
  EXPECT_EQ(client->ask(kTmknod, Body().u32(0).text("../n").u32(S_IFREG | 0644).u32(0).u32(0).u32(0)).error, EINVAL);
  EXPECT_EQ(client->ask(kTlink, Body().u32(0).u32(1).text("../taken")).error, EINVAL);
  EXPECT_EQ(client->ask(kTrename, Body().u32(1).u32(0).text("../taken")).error, EINVAL);
  EXPECT_EQ(client->ask(kTrenameat, Body().u32(0).text("../secret").u32(0).text("mine")).error, EINVAL);
  EXPECT_EQ(client->ask(kTrenameat, Body().u32(0).text(std::string("file\0x", 6)).u32(0).text("mine")).error, EINVAL);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("../secret").u32(0)).error, EINVAL);
  ASSERT_EQ(client->walk(0, 2, {}).error, 0);
  EXPECT_EQ(client->create(2, "../new", O_WRONLY, 0644).error, EINVAL);
  EXPECT_TRUE(std::filesystem::exists(dir.outside("secret")));
  EXPECT_FALSE(std::filesystem::exists(dir.outside("taken")));
}

TEST_F(NinepTest, SymbolicLinksAndSwappedDirectoriesLeadNowhere) {
  std::filesystem::create_directory(dir.outside("private"));
  std::ofstream(dir.outside("private/secret")) << "secret";
  std::filesystem::create_directory_symlink(dir.outside("private"), dir / "out");
  std::filesystem::create_symlink("../private/secret", dir / "link");
  std::filesystem::create_directory(dir / "real");
  dir.put("real/secret", "mine");
  make();
  const Reply reply = client->walk(0, 1, {"out", "secret"});
  EXPECT_EQ(reply.number(0, 2), 1u) << "the link is there, and is no directory";
  ASSERT_EQ(client->walk(0, 2, {"link"}).error, 0);
  EXPECT_EQ(client->open(2).error, ENXIO);
  EXPECT_EQ(client->ask(kTreadlink, Body().u32(2)).text(2, 17), "../private/secret");
  // A directory that the guest knows, replaced under its feet.
  ASSERT_EQ(client->walk(0, 3, {"real"}).error, 0);
  std::filesystem::rename(dir / "real", dir.outside("moved"));
  std::filesystem::create_directory_symlink(dir.outside("private"), dir / "real");
  const Reply after = client->walk(3, 4, {"secret"});
  if (!after.error) {
    ASSERT_EQ(client->open(4).error, 0);
    EXPECT_EQ(client->content(4), "mine");
  }
  EXPECT_NE(client->walk(0, 5, {"real", "secret"}).number(0, 2), 2u);
}

TEST_F(NinepTest, AttributesAreThoseOfStat) {
  dir.put("file", "content");
  std::filesystem::create_directory(dir / "sub");
  ASSERT_EQ(::symlink("file", (dir / "link").c_str()), 0);
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0640), 0);
  make();
  std::uint32_t fid = 1;
  for (const std::string name : {"file", "sub", "link", "fifo"}) {
    SCOPED_TRACE(name);
    ASSERT_EQ(client->walk(0, fid, {name}).error, 0);
    expect_same(client->getattr(fid++), dir.stat(name));
  }
}

TEST_F(NinepTest, SetattrDoesWhatTheSystemCallsDo) {
  dir.put("file", "0123456789");
  make();
  ASSERT_EQ(client->walk(0, 1, {"file"}).error, 0);
  EXPECT_EQ(client->setattr(1, 1, 0640).error, 0);
  EXPECT_EQ(dir.stat("file").st_mode & 07777, 0640u);
  EXPECT_EQ(client->setattr(1, 8, 0, 4).error, 0);
  EXPECT_EQ(dir.get("file"), "0123");
  EXPECT_EQ(client->setattr(1, 0x10 | 0x20 | 0x80 | 0x100, 0, 0, {1000, 123456789, 2000, 987654321}).error, 0);
  EXPECT_EQ(dir.stat("file").st_atim.tv_nsec, 123456789);
  EXPECT_EQ(dir.stat("file").st_mtim.tv_sec, 2000);
  EXPECT_EQ(dir.stat("file").st_mtim.tv_nsec, 987654321);
  EXPECT_EQ(client->setattr(1, 0x20, 0).error, 0);
  EXPECT_GT(dir.stat("file").st_mtim.tv_sec, 1'000'000'000) << "now";
  EXPECT_EQ(dir.stat("file").st_atim.tv_sec, 1000);
  EXPECT_EQ(client->setattr(1, 0x10 | 0x80, 0, 0, {1, 1'000'000'000, 0, 0}).error, EINVAL);
  EXPECT_EQ(client->setattr(1, 8, 0, ~std::uint64_t{0}).error, EINVAL);
  EXPECT_EQ(client->setattr(1, 2 | 4, 0).error, 0) << "to its own owner";
}

TEST_F(NinepTest, WhatIsWrittenIsInTheFileAndReadsBack) {
  make();
  ASSERT_EQ(client->walk(0, 1, {}).error, 0);
  const Reply made = client->create(1, "file", O_RDWR | O_EXCL, 0640);
  ASSERT_EQ(made.error, 0);
  EXPECT_EQ(made.number(5, 8), dir.stat("file").st_ino);
  EXPECT_EQ(dir.stat("file").st_mode & 07777, 0640u);
  EXPECT_EQ(client->write(1, 0, "hello").number(0, 4), 5u);
  EXPECT_EQ(client->write(1, 3, "p me").number(0, 4), 4u);
  EXPECT_EQ(client->content(1), "help me");
  EXPECT_EQ(client->content(1, 5, 100), "me");
  EXPECT_EQ(client->content(1, 100), "");
  EXPECT_EQ(dir.get("file"), "help me");
  EXPECT_EQ(client->ask(kTfsync, Body().u32(1).u32(0)).error, 0);
  EXPECT_EQ(client->ask(kTfsync, Body().u32(1)).error, 0) << "as old clients send it";
  EXPECT_EQ(client->clunk(1).error, 0);
  EXPECT_EQ(client->clunk(1).error, EBADF);
  const std::string large(200'000, 'L');
  open(2, {"file"}, O_RDWR);
  client->version(1 << 20);
  client->attach();
  open(2, {"file"}, O_RDWR);
  EXPECT_EQ(client->write(2, 10, large).number(0, 4), large.size());
  const Reply reply = client->ask(kTread, Body().u32(2).u64(10).u32(300'000), 400'000);
  EXPECT_EQ(reply.text(4, reply.number(0, 4)), large);
  EXPECT_EQ(client->ask(kTread, Body().u32(2).u64(10).u32(300'000), 1011).number(0, 4), 1000u)
      << "what there is room for";
}

TEST_F(NinepTest, OpensAreCheckedAndFidsAreOpenedOnce) {
  dir.put("file", "content");
  std::filesystem::create_directory(dir / "sub");
  ASSERT_EQ(::mkfifo((dir / "fifo").c_str(), 0600), 0);
  make();
  ASSERT_EQ(client->walk(0, 1, {"file"}).error, 0);
  EXPECT_EQ(client->read(1, 0, 1).error, EBADF);
  EXPECT_EQ(client->write(1, 0, "x").error, EBADF);
  ASSERT_EQ(client->open(1, O_RDONLY).error, 0);
  EXPECT_EQ(client->open(1).error, EINVAL);
  EXPECT_EQ(client->write(1, 0, "x").error, EBADF);
  EXPECT_EQ(client->create(1, "new", O_RDWR, 0600).error, EINVAL);
  ASSERT_EQ(client->walk(0, 2, {"sub"}).error, 0);
  EXPECT_EQ(client->open(2, O_WRONLY).error, EISDIR);
  ASSERT_EQ(client->open(2).error, 0);
  EXPECT_EQ(client->read(2, 0, 10).error, EISDIR);
  ASSERT_EQ(client->walk(0, 3, {"fifo"}).error, 0);
  EXPECT_EQ(client->open(3).error, ENXIO);
  ASSERT_EQ(client->walk(0, 4, {"file"}).error, 0);
  EXPECT_EQ(client->open(4, O_WRONLY | O_TRUNC).error, 0);
  EXPECT_EQ(dir.stat("file").st_size, 0);
  ASSERT_EQ(client->walk(0, 5, {}).error, 0);
  EXPECT_EQ(client->create(5, "file", O_RDWR | O_EXCL, 0600).error, EEXIST);
  EXPECT_EQ(client->create(5, "file", O_RDWR, 0600).error, 0) << "which then is opened";
}

TEST_F(NinepTest, AnOpenFileOutlivesItsName) {
  dir.put("file", "content");
  make();
  open(1, {"file"}, O_RDWR);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("file").u32(0)).error, 0);
  EXPECT_FALSE(dir.exists("file"));
  EXPECT_EQ(client->content(1), "content");
  EXPECT_EQ(client->getattr(1).number(33, 8), 0u);
  EXPECT_EQ(client->setattr(1, 8, 0, 3).error, 0);
  EXPECT_EQ(client->content(1), "con");
}

TEST_F(NinepTest, ThingsAreMadeAndRemoved) {
  make();
  EXPECT_EQ(client->ask(kTmkdir, Body().u32(0).text("d").u32(01750).u32(::getegid())).error, 0);
  EXPECT_EQ(dir.stat("d").st_mode & 07777, 01750u);
  EXPECT_EQ(client->ask(kTmkdir, Body().u32(0).text("d").u32(0755).u32(0)).error, EEXIST);
  EXPECT_EQ(client->ask(kTsymlink, Body().u32(0).text("l").text("/some where").u32(::getegid())).error, 0);
  EXPECT_EQ(std::filesystem::read_symlink(dir / "l"), "/some where");
  EXPECT_EQ(client->ask(kTmknod, Body().u32(0).text("p").u32(S_IFIFO | 0620).u32(0).u32(0).u32(::getegid())).error, 0);
  EXPECT_TRUE(S_ISFIFO(dir.stat("p").st_mode));
  EXPECT_EQ(client->ask(kTmknod, Body().u32(0).text("z").u32(S_IFCHR | 0620).u32(1).u32(5).u32(0)).error, EPERM);
  EXPECT_EQ(client->ask(kTmknod, Body().u32(0).text("z").u32(S_IFBLK | 0620).u32(8).u32(0).u32(0)).error, EPERM);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("d").u32(0)).error, EISDIR);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("p").u32(kRemoveDirectory)).error, ENOTDIR);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("d").u32(kRemoveDirectory)).error, 0);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("p").u32(0)).error, 0);
  EXPECT_FALSE(dir.exists("d"));
  EXPECT_FALSE(dir.exists("p"));
}

TEST_F(NinepTest, RemoveTakesTheFidWithItWhateverHappens) {
  std::filesystem::create_directories(dir / "full/x");
  dir.put("file", "");
  make();
  ASSERT_EQ(client->walk(0, 1, {"file"}).error, 0);
  EXPECT_EQ(client->ask(kTremove, Body().u32(1)).error, 0);
  EXPECT_FALSE(dir.exists("file"));
  EXPECT_EQ(client->getattr(1).error, EBADF);
  ASSERT_EQ(client->walk(0, 1, {"full"}).error, 0);
  EXPECT_EQ(client->ask(kTremove, Body().u32(1)).error, ENOTEMPTY);
  EXPECT_EQ(client->getattr(1).error, EBADF);
  ASSERT_EQ(client->walk(0, 1, {}).error, 0);
  EXPECT_EQ(client->ask(kTremove, Body().u32(1)).error, EBUSY) << "the root";
}

TEST_F(NinepTest, RemoveTakesTheNameThatTheFidWasWalkedBy) {
  dir.put("one", "x");
  std::filesystem::create_hard_link(dir / "one", dir / "two");
  make();
  ASSERT_EQ(client->walk(0, 1, {"one"}).error, 0);
  ASSERT_EQ(client->walk(0, 2, {"two"}).error, 0);
  EXPECT_EQ(client->ask(kTremove, Body().u32(1)).error, 0);
  EXPECT_FALSE(dir.exists("one"));
  EXPECT_TRUE(dir.exists("two"));
}

TEST_F(NinepTest, RenamesAndLinks) {
  std::filesystem::create_directory(dir / "d");
  dir.put("a", "A");
  dir.put("b", "B");
  make();
  ASSERT_EQ(client->walk(0, 1, {"a"}).error, 0);
  ASSERT_EQ(client->walk(0, 2, {"d"}).error, 0);
  EXPECT_EQ(client->ask(kTlink, Body().u32(2).u32(1).text("hard")).error, 0);
  EXPECT_EQ(dir.stat("d/hard").st_ino, dir.stat("a").st_ino);
  EXPECT_EQ(client->ask(kTrename, Body().u32(1).u32(2).text("moved")).error, 0);
  EXPECT_FALSE(dir.exists("a"));
  EXPECT_EQ(dir.get("d/moved"), "A");
  expect_same(client->getattr(1), dir.stat("d/moved"));
  EXPECT_EQ(client->ask(kTrenameat, Body().u32(0).text("b").u32(2).text("moved")).error, 0);
  EXPECT_EQ(dir.get("d/moved"), "B");
  EXPECT_EQ(client->ask(kTrenameat, Body().u32(0).text("none").u32(2).text("x")).error, ENOENT);
  EXPECT_EQ(client->ask(kTrenameat, Body().u32(0).text("d").u32(2).text("x")).error, EINVAL) << "into itself";
  ASSERT_EQ(client->walk(0, 3, {}).error, 0);
  EXPECT_EQ(client->ask(kTrename, Body().u32(3).u32(2).text("x")).error, EBUSY);
}

TEST_F(NinepTest, DirectoriesAreListedOnceAndWhole) {
  for (int i = 0; i < 300; ++i) dir.put("file-with-a-name-" + std::to_string(i), "");
  std::filesystem::create_directory(dir / "sub");
  std::filesystem::create_symlink("x", dir / "link");
  make();
  ASSERT_EQ(client->walk(0, 1, {}).error, 0);
  EXPECT_EQ(client->ask(kTreaddir, Body().u32(1).u64(0).u32(4096)).error, EBADF) << "not open";
  ASSERT_EQ(client->open(1).error, 0);
  for (const std::uint32_t count : {4096u, 100u}) {
    std::map<std::string, Name> found;
    for (Name& name : names(1, count)) EXPECT_TRUE(found.emplace(name.name, name).second) << name.name;
    EXPECT_EQ(found.size(), 304u);
    EXPECT_EQ(found.at("sub").qid_type, 0x80);
    EXPECT_EQ(found.at("sub").type, 4);
    EXPECT_EQ(found.at("link").qid_type, 2);
    EXPECT_EQ(found.at("link").type, 10);
    EXPECT_EQ(found.at("file-with-a-name-7").inode, dir.stat("file-with-a-name-7").st_ino);
    EXPECT_TRUE(found.contains("."));
    EXPECT_TRUE(found.contains(".."));
  }
  EXPECT_EQ(client->ask(kTreaddir, Body().u32(1).u64(0).u32(20)).error, EINVAL) << "room for no entry";
}

TEST_F(NinepTest, StatfsTellsTheHostsFigures) {
  make();
  const Reply reply = client->ask(kTstatfs, Body().u32(0));
  struct statvfs host{};
  ASSERT_EQ(::statvfs(dir.root().c_str(), &host), 0);
  ASSERT_EQ(reply.body.size(), 60u);
  EXPECT_EQ(reply.number(0, 4), static_cast<std::uint64_t>(V9FS_MAGIC));
  EXPECT_EQ(reply.number(4, 4), host.f_bsize);
  EXPECT_EQ(reply.number(8, 8), host.f_blocks);
  EXPECT_EQ(reply.number(32, 8), host.f_files);
  EXPECT_EQ(reply.number(56, 4), 255u);
}

TEST_F(NinepTest, ExtendedAttributesAreWalkedCreatedAndRemoved) {
  dir.put("file", "");
  if (::setxattr((dir / "file").c_str(), "user.one", "1111", 4, 0) != 0) GTEST_SKIP() << "no user.* attributes here";
  make();
  ASSERT_EQ(client->walk(0, 1, {"file"}).error, 0);
  EXPECT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2).text("user.one")).number(0, 8), 4u);
  EXPECT_EQ(client->content(2), "1111");
  EXPECT_EQ(client->content(2, 3, 100), "1");
  EXPECT_EQ(client->clunk(2).error, 0);
  EXPECT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2).text("user.none")).error, ENODATA);
  EXPECT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2).text("system.posix_acl_access")).error, EOPNOTSUPP);
  EXPECT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2).text("trusted.x")).error, EOPNOTSUPP);
  const auto set = [&](const std::string& name, const std::string& value, std::uint32_t flags, std::uint64_t size) {
    EXPECT_EQ(client->walk(1, 3, {}).error, 0);
    const int refused = client->ask(kTxattrcreate, Body().u32(3).text(name).u64(size).u32(flags)).error;
    if (!refused && !value.empty()) client->write(3, 0, value);
    const int error = client->clunk(3).error;
    return refused ? refused : error;
  };
  EXPECT_EQ(set("user.two", "second", 0, 6), 0);
  char value[16];
  EXPECT_EQ(::getxattr((dir / "file").c_str(), "user.two", value, sizeof value), 6);
  EXPECT_EQ(set("user.two", "x", XATTR_CREATE, 1), EEXIST);
  EXPECT_EQ(set("user.two", "cut", 0, 6), EINVAL) << "less than was announced";
  EXPECT_EQ(set("user.two", "toolong", 0, 3), EINVAL);
  EXPECT_EQ(set("user.big", "", 0, 65537), E2BIG);
  EXPECT_EQ(set("trusted.x", "1", 0, 1), EOPNOTSUPP);
  EXPECT_EQ(set("user.empty", "", 0, 0), 0);
  EXPECT_EQ(::getxattr((dir / "file").c_str(), "user.empty", value, sizeof value), 0);
  EXPECT_EQ(set("user.one", "", XATTR_REPLACE, 0), 0) << "which removes it";
  EXPECT_EQ(::getxattr((dir / "file").c_str(), "user.one", value, sizeof value), -1);
  ASSERT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(4).text("")).error, 0);
  EXPECT_EQ(client->content(4), std::string("user.two\0user.empty\0", 20));
}

TEST_F(NinepTest, AttributesThatAGuestHoldsAreBounded) {
  dir.put("file", "content");
  make();
  open(1, {"file"});
  unsigned held = 0;
  while (held < 1000 && client->ask(kTxattrwalk, Body().u32(1).u32(100 + held).text("")).error == 0) ++held;
  EXPECT_EQ(held, 256u);
  EXPECT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2000).text("")).error, ENFILE);
  EXPECT_EQ(client->clunk(100).error, 0);
  EXPECT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2000).text("")).error, 0);
}

TEST_F(NinepTest, LocksAreTakenOnTheHost) {
  dir.put("file", "0123456789");
  make();
  open(1, {"file"}, O_RDWR);
  open(2, {"file"}, O_RDWR);
  const int fd = ::open((dir / "file").c_str(), O_RDWR | O_CLOEXEC);
  const auto held = [&](short type, off_t start, off_t length) {
    struct flock lock{};
    lock.l_type = type;
    lock.l_start = start;
    lock.l_len = length;
    EXPECT_EQ(::fcntl(fd, F_OFD_GETLK, &lock), 0);
    return lock.l_type != F_UNLCK;
  };
  EXPECT_EQ(client->lock(1, 1, 100, 2, 3).body.at(0), 0);
  EXPECT_TRUE(held(F_RDLCK, 4, 1));
  EXPECT_FALSE(held(F_WRLCK, 5, 0));
  EXPECT_EQ(client->lock(2, 1, 200, 0, 0).body.at(0), 1) << "blocked by another process of the guest";
  const Reply who = client->ask(kTgetlock, Body().u32(2).u8(1).u64(0).u64(0).u32(200).text("guest"));
  EXPECT_EQ(who.body.at(0), 1);
  EXPECT_EQ(who.number(1, 8), 2u);
  EXPECT_EQ(who.number(9, 8), 3u);
  EXPECT_EQ(client->lock(1, 2, 100, 2, 3).body.at(0), 0);
  EXPECT_FALSE(held(F_WRLCK, 0, 0));
  EXPECT_EQ(client->ask(kTgetlock, Body().u32(2).u8(1).u64(0).u64(0).u32(200).text("guest")).body.at(0), 2);
  EXPECT_EQ(client->lock(2, 1, 200).body.at(0), 0);
  EXPECT_EQ(client->lock(2, 1, 201).body.at(0), 0) << "by the same open file: flock(2) of a child";
  EXPECT_TRUE(held(F_WRLCK, 0, 0));
  EXPECT_EQ(client->clunk(2).error, 0);
  EXPECT_FALSE(held(F_WRLCK, 0, 0)) << "an end of the fid is an end of its locks";
  EXPECT_EQ(client->lock(1, 1, 1, ~std::uint64_t{0}, 1).error, EINVAL);
  EXPECT_EQ(client->lock(1, 7, 1).error, EINVAL);
  ::close(fd);
}

TEST_F(NinepTest, AWaitForALockEndsWithItOrIsFlushed) {
  dir.put("file", "");
  make();
  open(1, {"file"}, O_RDWR);
  const int fd = ::open((dir / "file").c_str(), O_RDWR | O_CLOEXEC);
  struct flock lock{};
  lock.l_type = F_WRLCK;
  ASSERT_EQ(::fcntl(fd, F_OFD_SETLK, &lock), 0);
  const std::uint16_t flushed = client->send(kTlock, NinepClient::lock_body(1, 1, 1, 5));
  EXPECT_FALSE(client->answered(flushed));
  EXPECT_EQ(client->ask(kTflush, Body().u16(flushed)).error, 0);
  EXPECT_EQ(client->wait(flushed).written, 0u) << "a flushed request has no answer";
  const std::uint16_t waits = client->send(kTlock, NinepClient::lock_body(1, 1, 1, 6));
  EXPECT_FALSE(client->answered(waits));
  lock.l_type = F_UNLCK;
  ASSERT_EQ(::fcntl(fd, F_OFD_SETLK, &lock), 0);
  EXPECT_EQ(client->wait(waits).body.at(0), 0);
  const std::uint16_t ended = client->send(kTlock, NinepClient::lock_body(1, 1, 1, 6));
  client->port().drain();
  EXPECT_TRUE(client->answered(ended));
  EXPECT_EQ(client->ask(kTflush, Body().u16(999)).error, 0) << "of nothing";
  ::close(fd);
}

TEST_F(NinepTest, AReadOnlyShareChangesNothing) {
  dir.put("file", "content");
  std::filesystem::create_directory(dir / "d");
  make({.root = dir.root(), .read_only = true});
  open(1, {"file"});
  EXPECT_EQ(client->content(1), "content");
  EXPECT_EQ(client->lock(1, 0, 1).body.at(0), 0) << "the guest's own lock is all there is";
  ASSERT_EQ(client->walk(0, 2, {"file"}).error, 0);
  EXPECT_EQ(client->open(2, O_RDWR).error, EROFS);
  EXPECT_EQ(client->open(2, O_RDONLY | O_TRUNC).error, EROFS);
  EXPECT_EQ(client->setattr(2, 1, 0600).error, EROFS);
  EXPECT_EQ(client->setattr(2, 8, 0, 0).error, EROFS);
  ASSERT_EQ(client->walk(0, 3, {}).error, 0);
  EXPECT_EQ(client->create(3, "new", O_RDWR, 0600).error, EROFS);
  EXPECT_EQ(client->ask(kTmkdir, Body().u32(0).text("x").u32(0755).u32(0)).error, EROFS);
  EXPECT_EQ(client->ask(kTsymlink, Body().u32(0).text("x").text("y").u32(0)).error, EROFS);
  EXPECT_EQ(client->ask(kTmknod, Body().u32(0).text("x").u32(S_IFREG | 0600).u32(0).u32(0).u32(0)).error, EROFS);
  EXPECT_EQ(client->ask(kTlink, Body().u32(0).u32(2).text("x")).error, EROFS);
  EXPECT_EQ(client->ask(kTrename, Body().u32(2).u32(0).text("x")).error, EROFS);
  EXPECT_EQ(client->ask(kTrenameat, Body().u32(0).text("file").u32(0).text("x")).error, EROFS);
  EXPECT_EQ(client->ask(kTunlinkat, Body().u32(0).text("file").u32(0)).error, EROFS);
  EXPECT_EQ(client->ask(kTxattrcreate, Body().u32(3).text("user.x").u64(1).u32(0)).error, EROFS);
  EXPECT_EQ(client->ask(kTremove, Body().u32(2)).error, EROFS);
  EXPECT_EQ(dir.get("file"), "content");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.root()), {}), 2);
}

TEST_F(NinepTest, ASessionGoesOnWhereItIsLoaded) {
  std::filesystem::create_directory(dir / "d");
  dir.put("d/file", "content");
  make();
  open(1, {"d", "file"}, O_RDWR);
  ASSERT_EQ(client->walk(0, 2, {"d"}).error, 0);
  ASSERT_EQ(client->walk(1, 3, {}).error, 0);
  ASSERT_EQ(client->ask(kTxattrcreate, Body().u32(3).text("user.x").u64(4).u32(0)).error, 0);
  ASSERT_EQ(client->write(3, 0, "ab").error, 0);
  const Bytes saved = client->port().save();
  ASSERT_FALSE(saved.empty());
  client.reset();
  client.emplace(ServerOptions{.root = dir.root()});
  EXPECT_TRUE(client->port().save().empty());
  ASSERT_TRUE(client->port().load(saved));
  EXPECT_EQ(client->port().save(), saved);
  EXPECT_EQ(client->content(1), "content");
  EXPECT_EQ(client->write(1, 0, "C").error, 0);
  EXPECT_EQ(client->walk(2, 4, {"file"}).error, 0);
  EXPECT_EQ(client->write(3, 2, "cd").error, 0);
  client->clunk(3);
  char value[8];
  const ssize_t length = ::getxattr((dir / "d/file").c_str(), "user.x", value, sizeof value);
  if (length >= 0) {
    EXPECT_EQ(std::string(value, static_cast<std::size_t>(length)), "abcd");
  }
  std::filesystem::create_hard_link(dir / "d/file", dir / "other");
  ASSERT_EQ(client->walk(0, 5, {"other"}).error, 0);
  ASSERT_EQ(client->walk(0, 6, {"d", "file"}).error, 0);
  const Bytes two_names = client->port().save();
  ASSERT_TRUE(client->port().load(two_names));
  EXPECT_EQ(client->ask(kTremove, Body().u32(5)).error, 0);
  EXPECT_FALSE(dir.exists("other"));
  EXPECT_TRUE(dir.exists("d/file"));
  ASSERT_TRUE(client->port().load({}));
  EXPECT_EQ(client->getattr(0).error, EIO);
}

TEST_F(NinepTest, ADamagedSessionIsRefusedOrHarmless) {
  dir.put("file", "content");
  make();
  open(1, {"file"});
  ASSERT_EQ(client->ask(kTxattrwalk, Body().u32(1).u32(2).text("")).error, 0);
  const Bytes saved = client->port().save();
  for (std::size_t length = 1; length < saved.size(); ++length) {
    const Bytes before = client->port().save();
    if (!client->port().load(std::span(saved).first(length))) {
      EXPECT_EQ(client->port().save(), before);
    }
  }
  for (std::size_t bit = 0; bit < saved.size() * 8; ++bit) {
    Bytes damaged = saved;
    damaged[bit / 8] ^= static_cast<std::uint8_t>(1u << (bit % 8));
    const Bytes before = client->port().save();
    if (!client->port().load(damaged)) {
      EXPECT_EQ(client->port().save(), before);
      continue;
    }
    client->getattr(0);
    client->content(1);
    client->clunk(1);
    client->clunk(2);
  }
}

TEST_F(NinepTest, WhatIsNoMessageGetsAnErrorOrNothing) {
  make();
  const auto raw = [&](const Bytes& bytes, std::size_t room) {
    client->send_raw(1000, bytes, room);
    return client->wait(1000);
  };
  EXPECT_EQ(raw({}, 64).written, 0u);
  EXPECT_EQ(raw({7, 0, 0, 0, kTgetattr, 9}, 64).written, 0u);
  EXPECT_EQ(raw({7, 0, 0, 0, kTgetattr, 9, 0}, 64).error, EINVAL);
  EXPECT_EQ(raw({6, 0, 0, 0, kTgetattr, 9, 0}, 64).error, EINVAL);
  EXPECT_EQ(raw({99, 0, 0, 0, kTgetattr, 9, 0}, 64).error, EINVAL) << "longer than it is";
  EXPECT_EQ(raw({7, 0, 0, 0, 200, 9, 0}, 64).error, EOPNOTSUPP);
  EXPECT_EQ(raw({7, 0, 0, 0, kTgetattr, 9, 0}, 10).written, 0u) << "no room for an error";
  EXPECT_EQ(client->ask(kTgetattr, Body().u32(0).u64(kBasic), 100).error, EMSGSIZE);
  EXPECT_EQ(client->ask(kTwrite, Body().u32(0).u64(0).u32(1000)).error, EINVAL) << "more than was sent";
  // Each message, cut at every byte.
  const std::pair<std::uint8_t, Body> messages[] = {
      {kTwalk, Body().u32(0).u32(9).u16(2).text("a").text("b")},
      {kTlcreate, Body().u32(0).text("x").u32(2).u32(0600).u32(0)},
      {kTrenameat, Body().u32(0).text("x").u32(0).text("y")},
      {kTlock, NinepClient::lock_body(0, 1, 0, 1)},
      {kTsetattr, Body().u32(0).u32(0).u32(0).u32(0).u32(0).u64(0).u64(0).u64(0).u64(0).u64(0)},
      {kTxattrcreate, Body().u32(0).text("user.x").u64(1).u32(0)},
      {kTattach, Body().u32(9).u32(kNoFid).text("a").text("").u32(0)},
  };
  for (const auto& [type, body] : messages)
    for (std::size_t length = 0; length < body.bytes().size(); ++length) {
      Bytes message{static_cast<std::uint8_t>(7 + length), 0, 0, 0, type, 9, 0};
      message.insert(message.end(), body.bytes().begin(), body.bytes().begin() + static_cast<std::ptrdiff_t>(length));
      EXPECT_NE(raw(message, 64).error, 0) << unsigned{type} << ", " << length;
    }
}

TEST_F(NinepTest, FidsTakeNoDescriptorsOfTheirOwn) {
  for (int i = 0; i < 500; ++i) dir.put("f" + std::to_string(i), std::to_string(i));
  make({.root = dir.root(), .most_descriptors = 64});
  for (std::uint32_t i = 0; i < 500; ++i) ASSERT_EQ(client->walk(0, i + 1, {"f" + std::to_string(i)}).error, 0);
  for (std::uint32_t i = 0; i < 500; ++i) EXPECT_EQ(client->getattr(i + 1).number(49, 8), std::to_string(i).size());
  unsigned opened = 0;
  int error = 0;
  for (std::uint32_t i = 0; i < 500 && !error; ++i, ++opened) error = client->open(i + 1).error;
  EXPECT_EQ(error, ENFILE);
  EXPECT_GT(opened, 20u);
  EXPECT_EQ(client->clunk(1).error, 0);
  EXPECT_EQ(client->open(400).error, 0);
}

TEST_F(NinepTest, SetuidBitsGoWhenAnOrdinaryUserWrites) {
  if (::geteuid() != 0) GTEST_SKIP() << "only as root this is the server's work";
  dir.put("file", "x");
  for (const std::uint32_t user : {1000u, 0u}) {
    ASSERT_EQ(::chmod((dir / "file").c_str(), 04755), 0);
    make();
    ASSERT_EQ(client->attach(9, "", user).error, 0);
    ASSERT_EQ(client->walk(9, 1, {"file"}).error, 0);
    ASSERT_EQ(client->open(1, O_RDWR).error, 0);
    EXPECT_EQ(client->write(1, 0, "y").error, 0);
    EXPECT_EQ(dir.stat("file").st_mode & 07777, user ? 0755u : 04755u);
  }
}

}  // namespace
}  // namespace husk::hostfs
