// husk: reading the description of what husk's guest program is to do
#include "config.h"

#include <asm/stat.h>
#include <linux/fcntl.h>
#include <linux/mman.h>
#include <linux/stat.h>

namespace husk::guest {
namespace {

/// Private memory of the kernel's; never given back.
char* allocate(const Control& control, Size size) {
  const Word memory = call(__NR_mmap, nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory < 0 && memory > -4096) fail(control, "no memory for the description of the command", "", memory);
  return reinterpret_cast<char*>(memory);
}

/// Ends the word at the first space and returns what follows.
char* split(char* text) {
  while (*text && *text != ' ') ++text;
  if (*text) *text++ = 0;
  return text;
}

bool take(Config& config, char* line, Size& arguments, Size& variables) {
  const auto value = [&](const char* key) { return const_cast<char*>(after(line, key)); };
  if (char* text = value("arg=")) return config.arguments[arguments++] = text, true;
  if (char* text = value("env=")) return config.environment[variables++] = text, true;
  if (char* text = value("module=")) return config.modules.add(text);
  if (char* text = value("fresh=")) return config.fresh.add(text);
  if (char* text = value("disk=")) return config.disks.add(text);
  if (char* text = value("share=")) {
    char* const tag = split(text);
    char* const path = split(tag);
    return config.shares.add({equal(text, "ro"), tag, path});
  }
  if (char* text = value("root=")) return config.root = text, true;
  if (char* text = value("upper=")) return config.upper = text, true;
  if (char* text = value("tty=")) {
    config.rows = number(text);
    config.columns = number(split(text));
    return true;
  }
  if (equal(line, "9p")) return config.ninep = true;
  if (equal(line, "tty-in")) return config.tty_in = true;
  if (equal(line, "tty-out")) return config.tty_out = true;
  if (equal(line, "tty-err")) return config.tty_err = true;
  if (char* text = value("network=")) return config.network = text, true;
  if (char* text = value("hostname=")) return config.hostname = text, true;
  if (char* text = value("uid=")) return config.uid = number(text), true;
  if (char* text = value("gid=")) return config.gid = number(text), true;
  if (char* text = value("umask=")) return config.umask = number(text), true;
  if (char* text = value("cwd=")) return config.cwd = text, true;
  if (char* text = value("group=")) {
    if (config.group_count == sizeof config.groups / sizeof config.groups[0]) return true;  // as many as we can
    config.groups[config.group_count++] = static_cast<unsigned>(number(text));
    return true;
  }
  return false;
}

}  // namespace

void read_config(const Control& control, Config& config) {
  const Word fd = open(kConfigPath, O_RDONLY);
  struct stat status;
  if (fd < 0) fail(control, "cannot open ", kConfigPath, fd);
  if (const Word error = call(__NR_fstat, fd, &status)) fail(control, "cannot look at ", kConfigPath, error);
  const Size size = static_cast<Size>(status.st_size);
  char* const text = allocate(control, size + 1);
  for (Size done = 0; done < size;) {
    const Word got = read(fd, text + done, size - done);
    if (got <= 0) fail(control, "cannot read ", kConfigPath, got);
    done += static_cast<Size>(got);
  }
  close(fd);
  Size lines = 0;
  for (Size i = 0; i < size; ++i) lines += text[i] == 0;
  char* const pointers = allocate(control, 2 * (lines + 1) * sizeof(char*));
  config.arguments = reinterpret_cast<char**>(pointers);
  config.environment = config.arguments + lines + 1;
  Size arguments = 0, variables = 0;
  for (Size at = 0; at < size;) {
    char* const line = text + at;
    at += strlen(line) + 1;
    if (!take(config, line, arguments, variables))
      fail(control, "the description of the command is not understood: ", line);
  }
  if (arguments == 0) fail(control, "the description of the command has no command");
}

}  // namespace husk::guest
