#include "framework/files/atomic_write.h"

#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using testing::contents_of;
using testing::FileSizeLimit;
using testing::TempFolder;

int64_t n_entries(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

TEST_CASE("an atomic write creates the file and its parents and nothing else", "[files]") {
  const TempFolder folder;
  write_file_atomically(folder / "a/b/c.txt", "hello");
  CHECK(contents_of(folder / "a/b/c.txt") == "hello");
  CHECK(n_entries(folder / "a/b") == 1);
}

TEST_CASE("an atomic file shows the old contents until it is committed", "[files]") {
  const TempFolder folder;
  const auto path = folder.write("f.txt", "old");
  AtomicFile file(path);
  file.write("new ", 4);
  file.write("text", 4);
  CHECK(contents_of(path) == "old");
  CHECK(file.temporary().parent_path() == file.target().parent_path());
  file.commit();
  CHECK(contents_of(path) == "new text");
}

TEST_CASE("an atomic file that is not committed leaves no trace", "[files]") {
  const TempFolder folder;
  folder.write("f.txt", "old");
  {
    AtomicFile file(folder / "f.txt");
    file.write("half", 4);
  }
  CHECK(contents_of(folder / "f.txt") == "old");
  CHECK(n_entries(folder.path()) == 1);
}

TEST_CASE("a write that fails midway says why and keeps the old file", "[files]") {
  const TempFolder folder;
  const auto path = folder.write("f.txt", "old");
  const std::string large(10'000, 'x');
  {
    const FileSizeLimit limit(4'000);
    CHECK_THROWS_WITH(write_file_atomically(path, large),
                      Contains("f.txt: cannot write: File too large"));
  }
  CHECK(contents_of(path) == "old");
  CHECK(n_entries(folder.path()) == 1);
}

TEST_CASE("an atomic write through a link replaces what the link points at", "[files]") {
  const TempFolder folder;
  folder.write("real.txt", "old");
  fs::create_symlink("real.txt", folder / "link.txt");
  write_file_atomically(folder / "link.txt", "new");
  CHECK(fs::is_symlink(folder / "link.txt"));
  CHECK(contents_of(folder / "real.txt") == "new");
}

TEST_CASE("an atomic write to a place that cannot hold a file is an error", "[files]") {
  const TempFolder folder;
  folder.write("f.txt", "");
  CHECK_THROWS_WITH(write_file_atomically(folder.path(), "x"), Contains("Is a directory"));
  CHECK_THROWS_WITH(write_file_atomically(folder / "f.txt/below", "x"), Contains("f.txt"));
  CHECK_THROWS_AS(write_file_atomically("/proc/nothing/here", "x"), Error);
}

TEST_CASE("an atomic write to a device goes straight to it", "[files]") {
  CHECK_NOTHROW(write_file_atomically("/dev/null", "x"));
  CHECK(fs::is_character_file("/dev/null"));
}

TEST_CASE("an atomic folder is complete or absent", "[files]") {
  const TempFolder folder;
  {
    AtomicFolder dropped(folder / "model");
    write_file_atomically(dropped.path() / "x", "1");
  }
  CHECK(n_entries(folder.path()) == 0);
  AtomicFolder made(folder / "model/");
  write_file_atomically(made.path() / "sub/x", "1");
  CHECK_FALSE(fs::exists(folder / "model"));
  made.commit();
  CHECK(contents_of(folder / "model/sub/x") == "1");
  CHECK(n_entries(folder.path()) == 1);
}

TEST_CASE("an atomic folder takes the place of an empty folder but not of a full one", "[files]") {
  const TempFolder folder;
  fs::create_directory(folder / "empty");
  fs::create_directory(folder / "full");
  folder.write("full/kept", "1");
  AtomicFolder onto_empty(folder / "empty");
  onto_empty.commit();
  AtomicFolder onto_full(folder / "full");
  CHECK_THROWS_WITH(onto_full.commit(), Contains("full") && Contains("not empty"));
  CHECK(contents_of(folder / "full/kept") == "1");
}

TEST_CASE("replacing a folder leaves only the new one", "[files]") {
  const TempFolder folder;
  fs::create_directory(folder / "model");
  folder.write("model/old", "1");
  AtomicFolder made(folder / "model");
  write_file_atomically(made.path() / "new", "2");
  CHECK(fs::exists(folder / "model/old"));
  made.commit_replacing();
  CHECK(contents_of(folder / "model/new") == "2");
  CHECK_FALSE(fs::exists(folder / "model/old"));
  CHECK(n_entries(folder.path()) == 1);
}

TEST_CASE("replacing an absent folder creates it", "[files]") {
  const TempFolder folder;
  AtomicFolder made(folder / "model");
  made.commit_replacing();
  CHECK(fs::is_directory(folder / "model"));
}

TEST_CASE("committed files and folders have the permissions of ordinary ones", "[files]") {
  const TempFolder folder;
  const mode_t old_mask = ::umask(022);
  write_file_atomically(folder / "file", "x");
  AtomicFolder made(folder / "made");
  made.commit();
  ::umask(old_mask);
  CHECK(fs::status(folder / "file").permissions() == fs::perms(0644));
  CHECK(fs::status(folder / "made").permissions() == fs::perms(0755));
}

TEST_CASE("a copied file has the contents of its source and the mode of an ordinary file",
          "[files]") {
  const TempFolder folder;
  const std::string contents(3'000'000, 'x');
  const auto source = folder.write("source", contents);
  const auto ordinary = folder.write("ordinary", "");
  fs::permissions(source, fs::perms(GENERATE(0444, 0600, 0755)));
  copy_file_atomically(source, folder / "sub/copy");
  CHECK(contents_of(folder / "sub/copy") == contents);
  CHECK(fs::status(folder / "sub/copy").permissions() == fs::status(ordinary).permissions());
  CHECK_THROWS_WITH(copy_file_atomically(folder / "absent", folder / "copy"),
                    Contains("absent: cannot open"));
  CHECK_FALSE(fs::exists(folder / "copy"));
}

TEST_CASE("leftovers of interrupted writers are removed and nothing else is", "[files]") {
  const TempFolder folder;
  AtomicFile file(folder / "f.txt");
  AtomicFolder half(folder / "model");
  write_file_atomically(half.path() / "x", "1");
  folder.write(".tmp-of-somebody", "kept");
  folder.write("kept", "kept");
  CHECK(is_temporary_name(half.path().filename().string()));
  remove_leftovers(folder.path());
  CHECK(n_entries(folder.path()) == 2);
  CHECK(fs::exists(folder / "kept"));
  CHECK_NOTHROW(remove_leftovers(folder / "absent"));
}

TEST_CASE("a folder's writer removes what killed writers of that folder left", "[files]") {
  const TempFolder folder;
  const pid_t ended = ::fork();
  if (ended == 0) ::_exit(0);
  ::waitpid(ended, nullptr, 0);
  const auto left = [&](const std::string& target, pid_t process) {
    const auto path = folder / (".regroup-tmp-" + target + "-" + std::to_string(process) + "-0");
    fs::create_directory(path);
    return path;
  };
  const auto of_ended = left("model", ended), of_other_target = left("model-2", ended),
             of_other_file = left("mode", ended), of_running = left("model", ::getppid());
  const AtomicFolder made(folder / "model");
  CHECK_FALSE(fs::exists(of_ended));
  for (const auto& kept : {of_other_target, of_other_file, of_running}) CHECK(fs::exists(kept));
}

TEST_CASE("a process that ends at once leaves no temporary files", "[files]") {
  const TempFolder folder;
  const pid_t child = ::fork();
  if (child == 0) {
    AtomicFolder committed(folder / "committed"), model(folder / "model");
    committed.commit();
    folder.write(model.path().filename() / "half", "");
    const AtomicFile file(folder / "file");
    const bool were_any = remove_unfinished_and_block_commits();
    ::_exit(were_any && n_entries(folder.path()) == 1 ? 0 : 1);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
  CHECK(fs::is_directory(folder / "committed"));
}

TEST_CASE("a process that ends while it writes leaves no temporary files", "[files]") {
  const TempFolder folder;
  for (int round = 0; round < 50; ++round) {
    const pid_t child = ::fork();
    if (child == 0) {
      std::thread([&] {
        while (true) {
          const AtomicFolder model(folder / "model");
          for (const auto* name : {"a", "b/c", "d/e/f"})
            write_file_atomically(model.path() / name, "x");
        }
      }).detach();
      ::usleep(static_cast<useconds_t>(100 * round));
      remove_unfinished_and_block_commits();
      ::_exit(n_entries(folder.path()) == 0 ? 0 : 1);
    }
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFEXITED(status));
    REQUIRE(WEXITSTATUS(status) == 0);
  }
}

TEST_CASE("a device is writable for whoever may not write to its folder", "[files]") {
  const pid_t child = ::fork();
  if (child == 0) {
    if (::getuid() == 0 && ::setuid(65534) != 0) ::_exit(3);
    try {
      require_writable("/dev/null");
    } catch (const Error&) {
      ::_exit(1);
    }
    try {
      require_writable("/out.json");
    } catch (const Error& error) {
      ::_exit(error.exit_code() == ExitCode::kBadRequest ? 0 : 2);
    }
    ::_exit(2);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("a name of the greatest possible length can be written", "[files]") {
  const TempFolder folder;
  const std::string name(255, 'n');
  write_file_atomically(folder / name, "x");
  CHECK(contents_of(folder / name) == "x");
}

}  // namespace
}  // namespace regroup
