// husk: dumps of translated code, and the map for perf
#include "monitor/code_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "monitor/host_listing.h"

namespace husk::monitor {
namespace {
std::string hex(std::span<const std::uint8_t> bytes) {
  std::string text;
  for (const std::uint8_t byte : bytes) text += fmt::format("{:02x} ", byte);
  return text;
}

void append(std::string& text, const cpu::HostCode& code, const std::vector<ListedInsn>& lines) {
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const std::uint64_t end = i + 1 < lines.size() ? lines[i + 1].address : code.address + code.bytes.size();
    const auto bytes = code.bytes.subspan(lines[i].address - code.address, end - lines[i].address);
    text += fmt::format("  {:#x}: {:<32} {}\n", lines[i].address, hex(bytes), lines[i].text);
  }
}
}  // namespace

void CodeLog::translated(const cpu::TranslatedCode& code) {
  const std::string name = deps_.name_of ? deps_.name_of(code.linear) : std::string();
  const std::string where =
      name.empty() ? fmt::format("{:#x}", code.linear) : fmt::format("{:#x} <{}>", code.linear, name);
  std::string text;
  if (deps_.guest_code) {
    text += fmt::format("cpu{} in_asm {}: {} bytes\n", code.cpu, where, code.guest.size());
    append(text, {code.linear, code.guest}, list_guest_code(code));
  }
  if (deps_.host_code) {
    text += fmt::format("cpu{} out_asm {}: {} bytes, {} out of line\n", code.cpu, where, code.hot.bytes.size(),
                        code.cold.bytes.size());
    const HostListing listing = list_host_code(code, ListingStyle::addresses);
    append(text, code.hot, listing.hot);
    if (!listing.cold.empty()) text += "  out of line:\n";
    append(text, code.cold, listing.cold);
  }
  const std::lock_guard lock(mutex_);
  std::fwrite(text.data(), 1, text.size(), deps_.out);
}

std::string PerfMap::path_of_this_process() { return fmt::format("/tmp/perf-{}.map", ::getpid()); }

Result<std::unique_ptr<PerfMap>> PerfMap::create(const std::string& path, NameOf name_of) {
  // The name can be guessed and the folder is everybody's: what is there already is not written to.
  (void)::unlink(path.c_str());
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0) return fail_errno(errno, "cannot make the map for perf, " + path);
  std::FILE* const file = ::fdopen(fd, "w");
  if (!file) {
    const int error = errno;
    ::close(fd);
    return fail_errno(error, "cannot write the map for perf, " + path);
  }
  return std::unique_ptr<PerfMap>(new PerfMap(file, std::move(name_of)));
}

PerfMap::~PerfMap() { std::fclose(file_); }

void PerfMap::line(const cpu::HostCode& code, const std::string& name) {
  if (code.bytes.empty()) return;
  fmt::print(file_, "{:x} {:x} {}\n", code.address, code.bytes.size(), name);
}

void PerfMap::translated(const cpu::TranslatedCode& code) {
  std::string name = name_of_ ? name_of_(code.linear) : std::string();
  // A symbol comes out of the guest's memory: a line must stay one.
  std::replace_if(name.begin(), name.end(), [](char c) { return c < ' ' || c == 0x7F; }, '?');
  const std::string text =
      name.empty() ? fmt::format("guest:{:#x}", code.linear) : fmt::format("guest:{} [{:#x}]", name, code.linear);
  const std::lock_guard lock(mutex_);
  line(code.hot, text);
  line(code.cold, text + " (out of line)");
}

void PerfMap::shared_code(unsigned cpu, const cpu::HostCode& code) {
  const std::lock_guard lock(mutex_);
  line(code, fmt::format("husk:shared code of cpu{}", cpu));
}

}  // namespace husk::monitor
