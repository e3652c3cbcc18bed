// husk: main
#include <fcntl.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "app/commands.h"

int main(int count, char** arguments) {
  // A standard stream that is closed must not become the number of an image, into which output would then go.
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = ::open("/dev/null", O_RDWR);
  if (fd > STDERR_FILENO) ::close(fd);
  const std::vector<std::string> words(arguments + (count > 0 ? 1 : 0), arguments + count);
  return husk::app::run_command_line(count > 0 ? arguments[0] : "husk", words);
}
