// husk: tests of commands in guests: their options, the kernel's modules, the streams
#include <fcntl.h>
#include <gtest/gtest.h>
#include <lzma.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "app/command_channel.h"
#include "app/exit_status.h"
#include "app/guest_command.h"
#include "app/kernel_modules.h"
#include "app/run_command.h"
#include "base/bits.h"
#include "guest/init_image.h"

namespace husk::app {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    char name[] = "/tmp/husk-test-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  ~Folder() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }
  void write(const std::string& name, const std::string& content) {
    fs::create_directories(fs::path(path_ + "/" + name).parent_path());
    std::ofstream(path_ + "/" + name, std::ios::binary) << content;
  }

 private:
  std::string path_;
};

std::string names_of(const std::vector<KernelModule>& modules) {
  std::string text;
  for (const KernelModule& module : modules) text += (text.empty() ? "" : " ") + module.name;
  return text;
}

std::string load(const ModuleTree& tree, std::initializer_list<std::string_view> names) {
  const auto modules = tree.load(std::span(names.begin(), names.size()));
  return modules ? names_of(*modules) : "error: " + modules.error().text();
}

/// A module file as far as its .modinfo section goes (include/linux/moduleinfo.h: strings "tag=value", NUL between).
std::string module_file(const std::string& depends) {
  return std::string("ELF\0license=GPL\0depends=", 24) + depends + std::string("\0retpoline=Y\0", 13);
}

TEST(ModuleDependencies, AreTheWordsOfTheModinfoTag) {
  const auto of = [](const std::string& file) {
    return module_dependencies({reinterpret_cast<const std::uint8_t*>(file.data()), file.size()});
  };
  EXPECT_EQ(of(module_file("virtio,virtio_ring")), (std::vector<std::string>{"virtio", "virtio_ring"}));
  EXPECT_EQ(of(module_file("")), std::vector<std::string>{});
  EXPECT_EQ(of("nothing"), std::vector<std::string>{});
  EXPECT_EQ(of(std::string("\0depends=a,b", 12)), (std::vector<std::string>{"a", "b"}));  // cut off
}

TEST(ModuleTree, LoadsInTheOrderOfModulesDep) {
  Folder folder;
  // depmod(8): each line has all that the module needs, directly or not.
  folder.write("modules.dep",
               "kernel/fs/virtiofs.ko: kernel/fs/fuse.ko kernel/drivers/virtio-ring.ko kernel/drivers/virtio.ko\n"
               "kernel/fs/fuse.ko:\nkernel/drivers/virtio.ko: kernel/drivers/virtio-ring.ko\n"
               "kernel/drivers/virtio-ring.ko:\nkernel/fs/unrelated.ko: kernel/fs/fuse.ko\n");
  for (const char* name : {"fs/virtiofs", "fs/fuse", "drivers/virtio", "drivers/virtio-ring", "fs/unrelated"})
    folder.write(std::string("kernel/") + name + ".ko", name);
  const auto tree = ModuleTree::open(folder.path());
  ASSERT_TRUE(tree);
  EXPECT_TRUE(tree->has_dependencies());
  EXPECT_TRUE(tree->has_module("virtio_ring"));
  EXPECT_FALSE(tree->knows_builtin());
  EXPECT_EQ(load(*tree, {"virtiofs"}), "fuse virtio_ring virtio virtiofs");
  EXPECT_EQ(load(*tree, {"virtio", "virtiofs", "none"}), "virtio_ring virtio fuse virtiofs");
}

TEST(ModuleTree, FindsDependenciesInTheModulesWhereDepmodHasNotRun) {
  Folder folder;
  folder.write("modules.order", "kernel/a.ko\nkernel/b-c.ko\nlib/d.o\n");  // .o as from Linux 6.2 on
  folder.write("modules.builtin", "kernel/drivers/base/in.ko\n");
  folder.write("kernel/a.ko", module_file("b_c,in"));
  folder.write("kernel/b-c.ko", module_file("d"));
  folder.write("lib/d.ko", module_file("a"));  // a circle, which no kernel has
  const auto tree = ModuleTree::open(folder.path());
  ASSERT_TRUE(tree);
  EXPECT_TRUE(tree->knows_builtin() && tree->is_builtin("in") && !tree->is_builtin("a"));
  EXPECT_EQ(load(*tree, {"a"}), "d b_c a");
}

TEST(ModuleTree, UnpacksModules) {
  Folder folder;
  const std::string plain = module_file("") + std::string(5000, 'x');
  std::string packed(10000, 0);
  std::size_t size = 0;
  ASSERT_EQ(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, nullptr, reinterpret_cast<const std::uint8_t*>(plain.data()),
                                    plain.size(), reinterpret_cast<std::uint8_t*>(packed.data()), &size, packed.size()),
            LZMA_OK);
  folder.write("modules.dep", "a.ko.xz:\nbad.ko.xz:\n");
  folder.write("a.ko.xz", packed.substr(0, size));
  folder.write("bad.ko.xz", packed.substr(0, size / 2));
  const auto tree = ModuleTree::open(folder.path());
  ASSERT_TRUE(tree);
  const std::string_view name[] = {"a"};
  const auto modules = tree->load(name);
  ASSERT_TRUE(modules && modules->size() == 1);
  EXPECT_EQ(std::string(modules->front().data.begin(), modules->front().data.end()), plain);
  EXPECT_NE(load(*tree, {"bad"}).find("bad.ko.xz"), std::string::npos);
}

TEST(ModuleTree, IsFoundBesideTheKernelAndInTheTreeItWasBuiltIn) {
  Folder folder;
  folder.write("built/arch/x86/boot/bzImage", "");
  folder.write("built/modules.order", "");
  folder.write("package/vmlinuz", "");
  folder.write("package/modules/modules.order", "");
  folder.write("root/boot/vmlinuz-1.2", "");
  folder.write("root/lib/modules/1.2/modules.dep", "");
  folder.write("alone/vmlinuz", "");
  const auto place = [&](const char* kernel, const char* version) {
    const auto tree = ModuleTree::find(folder.path() + "/" + kernel, version);
    return tree ? tree->directory().substr(fs::canonical(folder.path()).string().size()) : std::string("none");
  };
  EXPECT_EQ(place("built/arch/x86/boot/bzImage", ""), "/built");
  EXPECT_EQ(place("package/vmlinuz", "1.2"), "/package/modules");
  EXPECT_EQ(place("root/boot/vmlinuz-1.2", "1.2"), "/root/lib/modules/1.2");
  EXPECT_EQ(place("root/boot/vmlinuz-1.2", "../../../root/lib/modules/1.2"), "none");
  EXPECT_EQ(place("alone/vmlinuz", "no-such-version"), "none");
  EXPECT_FALSE(ModuleTree::open(folder.path()));
}

TEST(GuestShare, IsTwoDirectories) {
  Folder folder;
  const std::string real = fs::canonical(folder.path());
  EXPECT_EQ(parse_share(folder.path() + ":/mnt").value(), (GuestShare{real, "/mnt", false}));
  EXPECT_EQ(parse_share(folder.path() + ":/mnt:ro").value(), (GuestShare{real, "/mnt", true}));
  EXPECT_EQ(parse_share(folder.path() + ":/mnt:rw").value(), (GuestShare{real, "/mnt", false}));
  folder.write("file", "");
  for (const std::string& bad : {std::string("/mnt"), std::string(":/mnt"), folder.path() + ":mnt",
                                 folder.path() + ":/", folder.path() + ":/a/../b", folder.path() + ":",
                                 folder.path() + "/none:/mnt", folder.path() + "/file:/mnt", std::string("ro")})
    EXPECT_FALSE(parse_share(bad)) << bad;
}

TEST(GuestCommandOptions, AreTakenBehindTheDashes) {
  const std::string arguments[] = {"kernel", "--pass-env", "A=b=c", "--cwd", "/etc", "--", "prog", "--", "--verbose"};
  const auto request = parse_run_options(arguments, [] { return RunDefaults{}; });
  ASSERT_TRUE(request) << request.error().text();
  ASSERT_TRUE(request->command && request->machine);
  EXPECT_EQ(request->command->arguments, (std::vector<std::string>{"prog", "--", "--verbose"}));
  EXPECT_EQ(request->command->directory, "/etc");
  EXPECT_EQ(request->command->environment.back(), "A=b=c");
  EXPECT_EQ(request->command->uid, ::geteuid());
  EXPECT_FALSE(request->command->verbose);
  EXPECT_EQ(request->machine->boot.kernel, "kernel");
}

TEST(GuestCommandOptions, RefuseWhatDoesNotGoTogether) {
  using Words = std::vector<std::string>;
  for (const Words& words :
       {Words{"kernel", "--"}, Words{"kernel", "--rw", "/tmp"}, Words{"kernel", "--verbose"},
        Words{"kernel", "--initrd", "x", "--", "true"}, Words{"kernel", "--exec", "x", "--", "true"},
        Words{"kernel", "--cwd", "relative", "--", "true"}, Words{"kernel", "--pass-env", "=x", "--", "true"}}) {
    const auto request = parse_run_options(words, [] { return RunDefaults{}; });
    ASSERT_FALSE(request) << words.back();
    EXPECT_FALSE(request.error().text().empty());
  }
}

TEST(CommandStatus, KeepsHusksOwnApartFromTheCommands) {
  using Kind = Ending::Kind;
  EXPECT_EQ(exit_status({.kind = Kind::command, .status = 7}, Dialect::command), 7);
  std::set<int> seen;
  for (const Kind kind :
       {Kind::power_off, Kind::guest_panic, Kind::triple_fault, Kind::time_out, Kind::user_quit, Kind::not_set_up}) {
    const int status = exit_status({.kind = kind}, Dialect::command);
    EXPECT_GE(status, 120);
    EXPECT_LE(status, 125);
    EXPECT_TRUE(seen.insert(status).second) << status;
  }
}

TEST(GuestProgram, IsAStaticProgramForX86_64) {
  const auto image = guest::init_image();
  ASSERT_GT(image.size(), 64u);
  EXPECT_LT(image.size(), 100u << 10);
  EXPECT_EQ(load_be<std::uint32_t>(image.data()), 0x7f454c46u);
  EXPECT_EQ(load_le<std::uint16_t>(image.data() + 16), 2);   // ET_EXEC
  EXPECT_EQ(load_le<std::uint16_t>(image.data() + 18), 62);  // EM_X86_64
}

/// The streams with pipes at the host's side and plain callbacks at the guest's.
class Channel : public testing::Test {
 protected:
  struct Pipe {
    host::UniqueFd read, write;
  };
  static Pipe make_pipe() {
    int ends[2];
    EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
    return {host::UniqueFd(ends[0]), host::UniqueFd(ends[1])};
  }

  void SetUp() override {
    channel_ =
        CommandChannel::create(*loop_, log_, {input_.read.get(), output_.write.get(), error_.write.get(), false, false},
                               {[this](const CommandEnd& end) { ends_.push_back(end); }, [] {}})
            .value();
    for (const guest::Port port : {guest::Port::input, guest::Port::output, guest::Port::error, guest::Port::control}) {
      auto& backend = backends_[static_cast<std::size_t>(port)] = channel_->attach(port, {});
      ASSERT_TRUE(backend);
      backend->set_callbacks({.received =
                                  [this, port](std::span<const std::uint8_t> data) {
                                    received_[static_cast<std::size_t>(port)].append(data.begin(), data.end());
                                  },
                              .writable = {},
                              .connection = {}});
    }
  }

  void turn() {
    while (loop_->run_once(20'000'000)) {
    }
  }
  std::size_t say(guest::Port port, const std::string& text) {
    return backends_[static_cast<std::size_t>(port)]->write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  }
  static std::string message(guest::ToHost kind, const std::string& data) {
    return std::string{static_cast<char>(kind), 0, static_cast<char>(data.size() & 0xff),
                       static_cast<char>(data.size() >> 8)} +
           data;
  }
  static std::string exited(std::uint32_t status, std::uint64_t out, std::uint64_t err) {
    std::string data(20, 0);
    auto* const bytes = reinterpret_cast<std::uint8_t*>(data.data());
    store_le<std::uint32_t>(bytes, status);
    store_le<std::uint64_t>(bytes + 4, out);
    store_le<std::uint64_t>(bytes + 12, err);
    return message(guest::ToHost::exited, data);
  }
  static std::string read_all(int fd) {
    std::string text(65536, 0);
    const ssize_t got = ::read(fd, text.data(), text.size());
    text.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return text;
  }

  std::unique_ptr<host::EventLoop> loop_ = host::EventLoop::create().value();
  Log log_{[](LogLevel, std::string_view) {}, LogLevel::error};
  Pipe input_ = make_pipe(), output_ = make_pipe(), error_ = make_pipe();
  std::vector<CommandEnd> ends_;
  std::unique_ptr<CommandChannel> channel_;
  std::array<std::unique_ptr<core::CharBackend>, 5> backends_;
  std::array<std::string, 5> received_;
};

TEST_F(Channel, EndsOnlyWhenAllOutputHasCome) {
  say(guest::Port::control, exited(7 << 8, 3, 2));
  turn();
  EXPECT_TRUE(ends_.empty());
  say(guest::Port::output, "out");
  turn();
  EXPECT_TRUE(ends_.empty());
  say(guest::Port::error, "er");
  turn();
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].kind, CommandEnd::Kind::exited);
  EXPECT_EQ(ends_[0].status, 7 << 8);
  EXPECT_EQ(read_all(output_.read.get()), "out");
  EXPECT_EQ(read_all(error_.read.get()), "er");
}

TEST_F(Channel, TellsTheGuestWhereInputEnds) {
  backends_[1]->set_read_credit(4096);
  backends_[4]->set_read_credit(4096);
  ASSERT_EQ(::write(input_.write.get(), "hello", 5), 5);
  turn();
  EXPECT_EQ(received_[1], "hello");
  EXPECT_EQ(received_[4], "");
  backends_[1]->set_read_credit(4096);
  input_.write = {};
  turn();
  EXPECT_EQ(received_[4], std::string("\3\0\10\0\5\0\0\0\0\0\0\0", 12));
}

TEST_F(Channel, TellsTheGuestThatNobodyReadsItsOutput) {
  ::signal(SIGPIPE, SIG_IGN);
  backends_[4]->set_read_credit(4096);
  output_.read = {};
  say(guest::Port::output, "lost");
  turn();
  EXPECT_EQ(received_[4], std::string("\4\0\1\0\2", 5));
  // What is lost is not waited for.
  say(guest::Port::control, exited(0, 1000, 0));
  turn();
  EXPECT_EQ(ends_.size(), 1u);
}

TEST_F(Channel, KeepsMessagesUntilTheGuestTakesThem) {
  channel_->send_signal(2);
  turn();
  EXPECT_EQ(received_[4], "");
  backends_[4]->set_read_credit(3);
  turn();
  EXPECT_EQ(received_[4], std::string("\1\0\1", 3));
  backends_[4]->set_read_credit(100);
  turn();
  EXPECT_EQ(received_[4], std::string("\1\0\1\0\2", 5));
}

TEST_F(Channel, TakesMessagesInAnyPieces) {
  const std::string all =
      message(guest::ToHost::started, "") + message(guest::ToHost::not_started, std::string("\2\0\0\0why", 7));
  for (const char byte : all) {
    say(guest::Port::control, std::string(1, byte));
    turn();
  }
  EXPECT_TRUE(channel_->started());
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].kind, CommandEnd::Kind::not_started);
  EXPECT_EQ(ends_[0].status, 2);
  EXPECT_EQ(ends_[0].text, "why");
}

TEST_F(Channel, EndsAGuestThatSendsDamagedMessages) {
  say(guest::Port::control, std::string("\1\0\xff\xff", 4));
  turn();
  ASSERT_EQ(ends_.size(), 1u);
  EXPECT_EQ(ends_[0].kind, CommandEnd::Kind::failed);
  // And hears no more of it.
  say(guest::Port::control, exited(0, 0, 0));
  turn();
  EXPECT_EQ(ends_.size(), 1u);
}

TEST_F(Channel, IgnoresMessagesOfAnImpossibleSize) {
  say(guest::Port::control, message(guest::ToHost::exited, "short") + message(guest::ToHost::not_started, "x") +
                                message(static_cast<guest::ToHost>(99), std::string(4096, 'x')));
  turn();
  EXPECT_TRUE(ends_.empty());
}

}  // namespace
}  // namespace husk::app
