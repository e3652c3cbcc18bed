// husk: `husk img` against qemu-img: the same output, and images that each takes from the other
#include "app/img/img.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>

namespace husk::app {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
using Bytes = std::vector<std::uint8_t>;

struct Ran {
  int status = -1;
  std::string out, err;
};

std::vector<std::string> words(const std::string& line) {
  std::istringstream in(line);
  std::vector<std::string> list;
  for (std::string word; in >> word;) list.push_back(word == "''" ? "" : word);
  return list;
}

Ran husk(const std::string& line) {
  Ran ran;
  char* out = nullptr;
  char* err = nullptr;
  std::size_t out_size = 0, err_size = 0;
  std::FILE* to_out = ::open_memstream(&out, &out_size);
  std::FILE* to_err = ::open_memstream(&err, &err_size);
  ran.status = run_img(words(line), to_out, to_err);
  std::fclose(to_out);
  std::fclose(to_err);
  ran.out.assign(out, out_size);
  ran.err.assign(err, err_size);
  std::free(out);
  std::free(err);
  return ran;
}

Ran qemu(const std::string& line) {
  Ran ran;
  std::FILE* pipe = ::popen(("qemu-img " + line + " 2>/dev/null").c_str(), "r");
  std::array<char, 4096> buffer;
  for (std::size_t got; (got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    ran.out.append(buffer.data(), got);
  const int status = ::pclose(pipe);
  ran.status = WIFEXITED(status) ? WEXITSTATUS(status) : 200;
  return ran;
}

class Img : public ::testing::Test {
 protected:
  Img() {
    std::string made = (std::filesystem::temp_directory_path() / "husk-img-XXXXXX").string();
    EXPECT_NE(::mkdtemp(made.data()), nullptr);
    directory_ = made;
  }
  ~Img() override { std::filesystem::remove_all(directory_); }
  std::string path(const std::string& name) const { return (directory_ / name).string(); }

  /// Data, zeroes and noise, in stretches of odd lengths.
  Bytes make_raw(const std::string& name, std::size_t size, unsigned seed = 1) {
    std::mt19937 random(seed);
    Bytes bytes(size);
    for (std::size_t at = 0; at < size;) {
      const std::size_t stop = std::min<std::size_t>(size, at + 1000 + random() % 300'000);
      const auto kind = random() % 3;
      for (; at < stop; ++at) bytes[at] = static_cast<std::uint8_t>(kind == 0 ? 0 : kind == 1 ? random() : at / 100);
    }
    std::ofstream(path(name), std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(size));
    return bytes;
  }
  Bytes content(const std::string& name) {
    std::ifstream in(path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  void expect_ok(const Ran& ran) { EXPECT_EQ(ran.status, 0) << ran.out << ran.err; }
  void expect_clean(const std::string& name) {
    const Ran checked = qemu("check -f qcow2 " + path(name));
    EXPECT_EQ(checked.status, 0) << name << checked.out;
  }
  void expect_same(const std::string& options, const std::string& a, const std::string& b) {
    const Ran compared = qemu("compare " + options + " " + path(a) + " " + path(b));
    EXPECT_EQ(compared.status, 0) << a << " " << b << compared.out;
    expect_ok(husk("compare " + options + " " + path(a) + " " + path(b)));
  }
  std::filesystem::path directory_;
};

const char* const kFormats[] = {"",
                                "-o compat=0.10",
                                "-o cluster_size=512",
                                "-o cluster_size=2M",
                                "-o extended_l2=on",
                                "-o extended_l2=on,cluster_size=16k",
                                "-o lazy_refcounts=on,refcount_bits=1",
                                "-o refcount_bits=64,cluster_size=4k",
                                "-o preallocation=metadata",
                                "-o preallocation=falloc",
                                "-o preallocation=full,cluster_size=128k",
                                "-o compression_type=zstd"};

TEST_F(Img, CreatesWhatQemuImgCreates) {
  for (const char* format : kFormats) {
    const Ran mine = husk(fmt::format("create -f qcow2 {} {} 5000001", format, path("a")));
    expect_ok(mine);
    const Ran theirs = qemu(fmt::format("create -f qcow2 {} {} 5000001", format, path("b")));
    expect_clean("a");
    EXPECT_EQ(mine.out.substr(mine.out.find(", ")), theirs.out.substr(theirs.out.find(", "))) << format;
    Json a = Json::parse(qemu("info --output=json " + path("a")).out),
         b = Json::parse(qemu("info --output=json " + path("b")).out);
    for (Json* one : {&a, &b}) {
      one->erase("filename");
      one->erase("actual-size");
    }
    EXPECT_EQ(a, b) << format;
    std::filesystem::remove(path("a"));
    std::filesystem::remove(path("b"));
  }
  expect_ok(husk("create -q " + path("raw") + " 1M"));
  EXPECT_EQ(std::filesystem::file_size(path("raw")), 1u << 20);
  expect_ok(husk("create -f qcow2 -b raw -F raw " + path("over")));
  EXPECT_EQ(Json::parse(qemu("info --output=json " + path("over")).out)["virtual-size"], 1 << 20);
}

TEST_F(Img, ConvertsToImagesThatQemuImgComparesEqual) {
  make_raw("src", 7'000'064);
  for (const char* format : kFormats) {
    expect_ok(husk(fmt::format("convert -O qcow2 {} {} {}", format, path("src"), path("t"))));
    expect_clean("t");
    expect_same("", "src", "t");
  }
  for (const char* format :
       {"", "-o compression_type=zstd", "-o cluster_size=4k", "-o extended_l2=on", "-o compat=0.10"}) {
    expect_ok(husk(fmt::format("convert -c -O qcow2 {} {} {}", format, path("src"), path("t"))));
    expect_clean("t");
    expect_same("", "src", "t");
    const Ran theirs = qemu(fmt::format("convert -c -O qcow2 {} {} {}", format, path("src"), path("u")));
    ASSERT_EQ(theirs.status, 0);
    EXPECT_LE(std::filesystem::file_size(path("t")), std::filesystem::file_size(path("u")) * 5 / 4) << format;
    expect_ok(husk(fmt::format("convert -O raw {} {}", path("u"), path("v"))));
    expect_same("", "v", "src");
  }
  // Into what is there, from two sources, and from a snapshot.
  expect_ok(husk(fmt::format("convert -n -O raw {} {}", path("t"), path("v"))));
  expect_same("", "src", "v");
  expect_ok(husk(fmt::format("convert -O qcow2 {} {} {}", path("src"), path("t"), path("double"))));
  Bytes twice = content("src");
  const Bytes once = twice;
  twice.insert(twice.end(), once.begin(), once.end());
  expect_ok(husk(fmt::format("convert -O raw {} {}", path("double"), path("double.raw"))));
  EXPECT_EQ(content("double.raw"), twice);
  expect_ok(husk("snapshot -c before " + path("t")));
  ASSERT_EQ(::system(("qemu-io -c 'write -P 7 0 1M' " + path("t") + " >/dev/null").c_str()), 0);
  expect_ok(husk(fmt::format("convert -l before -O raw {} {}", path("t"), path("w"))));
  EXPECT_EQ(content("w"), once);
}

TEST_F(Img, ConvertsToAnOverlayOfTheSameBacking) {
  make_raw("base", 3'000'320);
  expect_ok(husk(fmt::format("create -f qcow2 -F raw -b base {}", path("top"))));
  ASSERT_EQ(::system(("qemu-io -c 'write -P 5 100k 200k' -c 'write -z 1M 64k' " + path("top") + " >/dev/null").c_str()),
            0);
  expect_ok(husk(fmt::format("convert -O qcow2 -B base -F raw {} {}", path("top"), path("copy"))));
  expect_clean("copy");
  expect_same("", "top", "copy");
  EXPECT_LT(std::filesystem::file_size(path("copy")), 1u << 20);
}

TEST_F(Img, TellsWhatQemuImgTells) {
  make_raw("base", 4'000'256);
  ASSERT_EQ(qemu(fmt::format("create -q -f qcow2 -F raw -b {} {} 6M", path("base"), path("mid"))).status, 0);
  ASSERT_EQ(qemu(fmt::format("create -q -f qcow2 -F qcow2 -b mid -o cluster_size=8k {}", path("top"))).status, 0);
  ASSERT_EQ(::system(("qemu-io -c 'write -P 5 100k 200k' -c 'write -z 1M 64k' -c 'discard 2M 128k' " + path("mid") +
                      " >/dev/null")
                         .c_str()),
            0);
  ASSERT_EQ(
      ::system(("qemu-io -c 'write -P 6 150k 300k' -c 'write -P 3 5M 1k' " + path("top") + " >/dev/null").c_str()), 0);
  ASSERT_EQ(qemu("snapshot -c first " + path("top")).status, 0);
  ASSERT_EQ(qemu(fmt::format("convert -c -O qcow2 {} {}", path("base"), path("packed"))).status, 0);
  ASSERT_EQ(
      qemu(fmt::format("create -q -f qcow2 -o data_file={},data_file_raw=on {} 1M", path("data"), path("ext"))).status,
      0);
  ASSERT_EQ(qemu(fmt::format("create -q -f qcow2 -o compat=0.10 {} 1M", path("old"))).status, 0);
  for (const char* name : {"base", "mid", "top", "packed", "ext", "old"}) {
    for (const char* command :
         {"info --output=json", "check --output=json", "map --output=json", "measure --output=json -O qcow2",
          "measure --output=json -O raw", "info --output=json --backing-chain",
          "measure --output=json -O qcow2 -o cluster_size=4k,extended_l2=off"}) {
      const std::string line = fmt::format("{} {}", command, path(name));
      const Ran theirs = qemu(line), mine = husk(line);
      EXPECT_EQ(mine.status, theirs.status) << line << mine.err;
      if (theirs.out.empty()) continue;
      Json expected = Json::parse(theirs.out), got = Json::parse(mine.out, nullptr, false);
      ASSERT_FALSE(got.is_discarded()) << mine.out;
      EXPECT_EQ(got, expected) << line << "\n" << mine.out << theirs.out;
    }
    for (const char* command : {"info", "check", "map", "snapshot -l", "measure -O qcow2"}) {
      const std::string line = fmt::format("{} {}", command, path(name));
      const Ran theirs = qemu(line), mine = husk(line);
      EXPECT_EQ(mine.status, theirs.status) << line;
      if (theirs.status == 0) {
        EXPECT_EQ(mine.out, theirs.out) << line;
      }
    }
  }
  for (const char* line :
       {"measure --size 10G -O qcow2", "measure --size 123456789 -O qcow2 -o cluster_size=512,refcount_bits=64",
        "measure --size 1T -O qcow2 -o extended_l2=on,preallocation=full", "measure --size 5M -O raw"})
    EXPECT_EQ(husk(line).out, qemu(line).out) << line;
}

TEST_F(Img, RepairsWhatQemuImgFindsBroken) {
  make_raw("src", 3'000'320);
  for (const char* options : {"", "-o cluster_size=512", "-o refcount_bits=1", "-o extended_l2=on"}) {
    ASSERT_EQ(qemu(fmt::format("convert -O qcow2 {} {} {}", options, path("src"), path("t"))).status, 0);
    // The refcount table forgets its first block: all of its clusters count as free.
    std::fstream file(path("t"), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(48);
    std::array<char, 8> word;
    file.read(word.data(), 8);
    std::uint64_t table = 0;
    for (const char byte : word) table = table << 8 | static_cast<std::uint8_t>(byte);
    file.seekp(static_cast<std::streamoff>(table));
    file.write("\0\0\0\0\0\0\0\0", 8);
    file.close();
    const Ran before = husk("check " + path("t"));
    EXPECT_EQ(before.status, 2) << options;
    EXPECT_EQ(qemu("check " + path("t")).status, 2) << options;
    expect_ok(husk("check -r all " + path("t")));
    expect_clean("t");
    expect_same("", "src", "t");
    expect_ok(husk("check " + path("t")));
  }
}

TEST_F(Img, MendsLeaks) {
  make_raw("src", 1 << 20);
  ASSERT_EQ(qemu(fmt::format("convert -O qcow2 {} {}", path("src"), path("t"))).status, 0);
  // 16-bit refcounts in the block at 0x20000 (qemu-img's layout): cluster 1000 is counted, and nobody's.
  std::fstream file(path("t"), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(0x20000 + 2000);
  file.write("\0\1", 2);
  file.close();
  std::filesystem::resize_file(path("t"), 1001 * 65536);  // qemu-img looks no further than the file's end
  EXPECT_EQ(qemu("check " + path("t")).status, 3);
  const Ran found = husk("check --output=json " + path("t"));
  EXPECT_EQ(found.status, 3);
  EXPECT_EQ(Json::parse(found.out)["leaks"], 1);
  expect_ok(husk("check -r leaks " + path("t")));
  expect_clean("t");
  expect_same("", "src", "t");
}

TEST_F(Img, ResizesAsAskedAndNotByAccident) {
  make_raw("src", 3 << 20);
  for (const char* format : {"raw", "qcow2"}) {
    ASSERT_EQ(qemu(fmt::format("convert -O {} {} {}", format, path("src"), path("t"))).status, 0);
    const auto size = [&] {
      return Json::parse(qemu(fmt::format("info -f {} --output=json {}", format, path("t"))).out)["virtual-size"]
          .get<std::uint64_t>();
    };
    expect_ok(husk(fmt::format("resize -f {} {} +1M", format, path("t"))));
    EXPECT_EQ(size(), 4u << 20);
    EXPECT_EQ(husk(fmt::format("resize -f {} {} 1M", format, path("t"))).status, 1);
    EXPECT_EQ(size(), 4u << 20);
    expect_ok(husk(fmt::format("resize -f {} --shrink {} -3M", format, path("t"))));
    EXPECT_EQ(size(), 1u << 20);
    expect_ok(husk(fmt::format("resize -f {} --preallocation=full {} 2M", format, path("t"))));
    EXPECT_EQ(size(), 2u << 20);
  }
  expect_clean("t");
}

TEST_F(Img, CommitsIntoTheBackingFile) {
  make_raw("base", 2 << 20);
  for (const char* options : {"", "-d"}) {
    ASSERT_EQ(qemu(fmt::format("convert -O qcow2 {} {}", path("base"), path("b.qcow2"))).status, 0);
    std::filesystem::remove(path("top"));
    ASSERT_EQ(qemu(fmt::format("create -q -f qcow2 -F qcow2 -b b.qcow2 {} 3M", path("top"))).status, 0);
    ASSERT_EQ(::system(("qemu-io -c 'write -P 5 100k 200k' -c 'write -z 1M 64k' -c 'write -P 9 2500k 10k' " +
                        path("top") + " >/dev/null")
                           .c_str()),
              0);
    ASSERT_EQ(qemu(fmt::format("convert -O raw {} {}", path("top"), path("expected"))).status, 0);
    expect_ok(husk(fmt::format("commit {} {}", options, path("top"))));
    expect_clean("b.qcow2");
    expect_clean("top");
    expect_same("", "expected", "b.qcow2");
    expect_same("", "expected", "top");
    const Json map = Json::parse(qemu("map --output=json " + path("top")).out);
    EXPECT_EQ(map[0]["depth"], 1);
  }
}

TEST_F(Img, RebasesWithoutChangingTheContent) {
  make_raw("one", 2 << 20, 1);
  make_raw("two", 3 << 20, 2);
  for (const char* options : {"", "-o cluster_size=4k", "-o extended_l2=on", "-o compat=0.10"}) {
    std::filesystem::remove(path("top"));
    ASSERT_EQ(qemu(fmt::format("create -q -f qcow2 -F raw -b one {} {} 2500k", options, path("top"))).status, 0);
    ASSERT_EQ(::system(("qemu-io -c 'write -P 5 100k 200k' " + path("top") + " >/dev/null").c_str()), 0);
    ASSERT_EQ(qemu(fmt::format("convert -O raw {} {}", path("top"), path("expected"))).status, 0);
    expect_ok(husk(fmt::format("rebase -F raw -b two {}", path("top"))));
    expect_clean("top");
    expect_same("", "expected", "top");
    EXPECT_EQ(Json::parse(qemu("info --output=json " + path("top")).out)["backing-filename"], "two");
    expect_ok(husk(fmt::format("rebase -b '' {}", path("top"))));
    expect_clean("top");
    expect_same("", "expected", "top");
    EXPECT_FALSE(Json::parse(qemu("info --output=json " + path("top")).out).contains("backing-filename"));
    expect_ok(husk(fmt::format("rebase -u -F raw -b elsewhere {}", path("top"))));
    EXPECT_EQ(Json::parse(husk("info --output=json " + path("top")).out)["backing-filename"], "elsewhere");
  }
}

TEST_F(Img, ComparesAsQemuImg) {
  Bytes bytes = make_raw("a", 1 << 20);
  bytes[700'123] ^= 1;
  std::ofstream(path("b"), std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  bytes[700'123] ^= 1;
  bytes.resize(2 << 20);
  std::ofstream(path("c"), std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  for (const char* pair : {"a a", "a b", "a c", "b c"}) {
    for (const char* options : {"", "-s "}) {
      const auto names = words(pair);
      const std::string line = fmt::format("compare {}{} {}", options, path(names[0]), path(names[1]));
      const Ran theirs = qemu(line), mine = husk(line);
      EXPECT_EQ(mine.status, theirs.status) << line;
      EXPECT_EQ(mine.out, theirs.out) << line;
    }
  }
  EXPECT_EQ(husk("compare " + path("a") + " " + path("none")).status, 2);
}

TEST_F(Img, CopiesAPartByDd) {
  make_raw("a", 1'000'448);
  for (const char* what : {"bs=1k count=100", "bs=4096 skip=10", "bs=1M", "bs=1000 count=77 skip=3"}) {
    expect_ok(husk(fmt::format("dd -f raw -O raw {} if={} of={}", what, path("a"), path("mine"))));
    // coreutils' dd is the oracle: qemu-img 7.2 counts `skip` as a part of `count`.
    ASSERT_EQ(::system(fmt::format("dd status=none {} if={} of={}", what, path("a"), path("theirs")).c_str()), 0);
    std::filesystem::resize_file(path("theirs"), (std::filesystem::file_size(path("theirs")) + 511) / 512 * 512);
    EXPECT_EQ(content("mine"), content("theirs")) << what;
  }
}

TEST_F(Img, BenchRunsWhatWasAsked) {
  expect_ok(husk("create -q -f qcow2 " + path("a") + " 16M"));
  const Ran wrote = husk("bench -w -c 1000 -d 16 -S 8k --pattern 65 --flush-interval 100 " + path("a"));
  expect_ok(wrote);
  EXPECT_THAT(
      wrote.out,
      HasSubstr("Sending 1000 write requests, 4096 bytes each, 16 in parallel (starting at offset 0, step size 8192)"));
  expect_clean("a");
  ASSERT_EQ(qemu(fmt::format("convert -O raw {} {}", path("a"), path("raw"))).status, 0);
  const Bytes bytes = content("raw");
  EXPECT_EQ(bytes[8192], 65);
  EXPECT_EQ(bytes[8192 + 4096], 0);
  expect_ok(husk("bench -c 500 -n " + path("a")));
}

/// Each option that a command's --help shows is in the page's paragraph of that command, and the other way round.
TEST_F(Img, TheManPageShowsTheOptionsThatThereAre) {
  std::ifstream in(HUSK_MAN_PAGE);
  std::string page{std::istreambuf_iterator<char>(in), {}};
  const auto plain = [](std::string text) {
    for (const char* mark : {"\\fI", "\\fR", "\\fB", "\\", "\""})
      for (std::size_t at; (at = text.find(mark)) != std::string::npos;) text.erase(at, std::strlen(mark));
    return text;
  };
  for (const char* command : {"bench", "check", "commit", "compare", "convert", "create", "dd", "info", "map",
                              "measure", "rebase", "resize", "snapshot"}) {
    const std::string help = husk(std::string(command) + " --help").out;
    const std::string start = fmt::format("Usage: husk img {} ", command);
    const std::string usage = help.substr(start.size(), help.find('\n') - start.size());
    const std::size_t at = page.find(fmt::format("\n.BR {} \" ", command));
    ASSERT_NE(at, std::string::npos) << command;
    const std::size_t from = page.find('"', at) + 2;
    EXPECT_EQ(plain(page.substr(from, page.find('\n', from) - from)), usage) << command;
  }
}

TEST_F(Img, SaysWhatIsWrongWithItsArguments) {
  EXPECT_THAT(husk("frobnicate").err, HasSubstr("there is no command 'frobnicate'"));
  EXPECT_THAT(husk("create -f qcow2 -o cluster_size=1000 x 1M").err, HasSubstr("power of two"));
  EXPECT_THAT(husk("create -f vmdk x 1M").err, HasSubstr("no image format 'vmdk'"));
  EXPECT_THAT(husk("create -f qcow2 -o encrypt.format=luks x 1M").err, HasSubstr("encryption"));
  EXPECT_THAT(husk("info --nonsense x").err, HasSubstr("--nonsense"));
  EXPECT_THAT(husk("info").err, HasSubstr("missing"));
  EXPECT_THAT(husk("resize x 12q").err, HasSubstr("12q"));
  EXPECT_EQ(husk("info /nonexistent/image").status, 1);
  for (const char* command : {"bench", "check", "commit", "compare", "convert", "create", "dd", "info", "map",
                              "measure", "rebase", "resize", "snapshot"}) {
    EXPECT_EQ(husk(std::string(command) + " --help").status, 0);
    EXPECT_THAT(husk("--help").out, HasSubstr(command));
  }
}

}  // namespace
}  // namespace husk::app
