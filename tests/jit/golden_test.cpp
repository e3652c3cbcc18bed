// husk: the host code that the JIT makes of about a hundred pieces of guest code, compared with texts in golden/
// A change of emitted code changes the texts: HUSK_UPDATE_GOLDENS=1 jit_golden_test writes them anew, for review.
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "cpu/interp/core_fixture.h"
#include "cpu/jit/engine.h"
#include "monitor/host_listing.h"

namespace husk::cpu::jit {
namespace {

enum Option : std::uint8_t { kWanders = 1, kUser = 2, kCounts = 4, kFirstForm = 8 };  // as in snippets.asm

struct Snippet {
  CodeSize code_size;
  unsigned options;
  std::string group, name;
  std::vector<std::uint8_t> code;
};

std::vector<Snippet> read_snippets() {
  std::ifstream file(HUSK_SNIPPETS, std::ios::binary);
  const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<Snippet> snippets;
  std::size_t at = 0;
  const auto byte = [&] { return static_cast<std::uint8_t>(bytes.at(at++)); };
  while (at < bytes.size()) {
    Snippet snippet;
    snippet.code_size = byte() == 64 ? CodeSize::bits64 : CodeSize::bits32;
    snippet.options = byte();
    const unsigned length = byte();
    const std::string name = bytes.substr(at, length);
    at += length;
    snippet.group = name.substr(0, name.find('/'));
    snippet.name = name.substr(name.find('/') + 1);
    const unsigned low = byte();
    const unsigned size = low | static_cast<unsigned>(byte()) << 8;
    const std::string code = bytes.substr(at, size);
    snippet.code.assign(code.begin(), code.end());
    at += size;
    snippets.push_back(std::move(snippet));
  }
  return snippets;
}

/// A CPU that translates one snippet.
class Workshop final : public interp::CoreFixture, public CodeObserver {
 public:
  Workshop() : CoreFixture("max") {}
  void TestBody() override {}

  std::string translation_of(const Snippet& snippet) {
    const unsigned cpl = snippet.options & kUser ? 3 : 0;
    snippet.code_size == CodeSize::bits64 ? long_mode(cpl) : protected_mode(cpl);
    with_state([](CpuState& s) {
      s.cr4 |= kCr4Osfxsr | kCr4Osxsave;
      s.xcr0 = 7;
      s.x87.control = 0x37F;
    });
    // In the middle of a page, with what is no instruction behind it.
    constexpr std::uint64_t kPlace = kCode + 0x400;
    for (std::size_t i = 0; i < snippet.code.size(); ++i) put<std::uint8_t>(kPlace + i, snippet.code[i]);
    put<std::uint16_t>(kPlace + snippet.code.size(), 0x040F);
    core->s.rip = kPlace;
    // The same on every host: one that has what x86-64-v3 asks for, and a constant in place of randomness.
    const auto host = cpu_model("Haswell");
    HUSK_CHECK(host);
    auto engine = Engine::create(*core, EngineOptions{.code_bytes = std::size_t{1} << 20,
                                                      .count = (snippet.options & kCounts) != 0,
                                                      .host_features = host->features,
                                                      .seed = 0x0012'3456'789A'C000,
                                                      .heat = snippet.options & kFirstForm ? 1000u : 0u});
    if (!engine) return engine.error().text() + "\n";
    core->set_engine(engine->get());
    if (snippet.options & kWanders)
      for (std::size_t i = 0; i < snippet.code.size(); ++i) (*engine)->set_wandering(ram->data() + kPlace + i);
    (*engine)->observe(this);
    text_ = "nothing is translated\n";
    (void)(*engine)->translate();
    return text_;
  }

  void translated(const TranslatedCode& code) override {
    text_ = "guest:\n";
    append(monitor::list_guest_code(code));
    const monitor::HostListing host = monitor::list_host_code(code, monitor::ListingStyle::relative);
    text_ += fmt::format("host, {} bytes:\n", code.hot.bytes.size());
    append(host.hot);
    if (host.cold.empty()) return;
    text_ += "out of line:\n";
    append(host.cold);
  }
  void shared_code(unsigned, const HostCode&) override {}

 private:
  void append(const std::vector<monitor::ListedInsn>& lines) {
    for (const monitor::ListedInsn& line : lines) text_ += "  " + line.text + "\n";
  }
  std::string text_;
};

/// The texts as they should be, a group each.
std::map<std::string, std::string> make_texts() {
  std::map<std::string, std::string> texts;
  for (const Snippet& snippet : read_snippets()) {
    std::string& text = texts[snippet.group];
    text += fmt::format("=== {} ===\n{}\n", snippet.name, Workshop().translation_of(snippet));
  }
  return texts;
}

std::string path_of(const std::string& group) { return HUSK_GOLDENS "/" + group + ".txt"; }

std::string read(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

/// [name of the snippet]: its part of a group's text.
std::map<std::string, std::string> parts(const std::string& text) {
  std::map<std::string, std::string> found;
  for (std::size_t at = text.find("=== "); at != std::string::npos;) {
    const std::size_t next = text.find("\n=== ", at);
    const std::string part = text.substr(at, next == std::string::npos ? next : next + 1 - at);
    found[part.substr(0, part.find('\n'))] = part;
    at = next == std::string::npos ? next : next + 1;
  }
  return found;
}

TEST(JitGolden, EmittedCodeIsWhatWasReviewed) {
  const auto snippets = read_snippets();
  ASSERT_GE(snippets.size(), 100u);
  const auto texts = make_texts();
  if (std::getenv("HUSK_UPDATE_GOLDENS")) {
    for (const auto& [group, text] : texts) std::ofstream(path_of(group)) << text;
    GTEST_SKIP() << "goldens written, nothing compared";
  }
  for (const auto& [group, text] : texts) {
    const std::string golden = read(path_of(group));
    if (golden == text) continue;
    const auto wanted = parts(golden);
    for (const auto& [name, part] : parts(text)) {
      const auto found = wanted.find(name);
      if (found == wanted.end())
        ADD_FAILURE() << "golden/" << group << ".txt has no " << name;
      else
        EXPECT_EQ(part, found->second) << "golden/" << group << ".txt; HUSK_UPDATE_GOLDENS=1 writes it anew";
    }
    EXPECT_EQ(parts(text).size(), wanted.size()) << "golden/" << group << ".txt has snippets that are gone";
  }
}

TEST(JitGolden, EveryTextBelongsToAGroup) {
  std::map<std::string, bool> groups;
  for (const Snippet& snippet : read_snippets()) groups[snippet.group + ".txt"] = true;
  for (const auto& entry : std::filesystem::directory_iterator(HUSK_GOLDENS))
    EXPECT_TRUE(groups.contains(entry.path().filename())) << entry.path();
}

}  // namespace
}  // namespace husk::cpu::jit
