#include "framework/files/folder_lock.h"

#include <optional>

#include "framework/errors/error.h"
#include "tests/support/catch_torch.h"
#include "tests/support/temp_folder.h"

namespace regroup {
namespace {

namespace fs = std::filesystem;
using testing::TempFolder;

TEST_CASE("a locked folder is refused until the lock is dropped", "[files]") {
  const TempFolder folder;
  std::optional<FolderLock> lock(folder.path());
  try {
    const FolderLock second(folder.path());
    FAIL("the folder was locked twice");
  } catch (const Error& error) {
    CHECK(error.exit_code() == ExitCode::kBadRequest);
    CHECK(error.what() == folder.path().string() +
                              ": is in use by another regroup process. Wait for it or stop it.");
  }
  lock.reset();
  CHECK_NOTHROW(FolderLock(folder.path()));
}

TEST_CASE("a lock moves with its object and with its folder", "[files]") {
  const TempFolder folder;
  fs::create_directory(folder / "run");
  FolderLock lock(folder / "run");
  const FolderLock moved(std::move(lock));
  CHECK_THROWS_AS(FolderLock(folder / "run"), Error);
  fs::rename(folder / "run", folder / "renamed");
  fs::create_directory(folder / "run");
  CHECK_THROWS_AS(FolderLock(folder / "renamed"), Error);
  CHECK_NOTHROW(FolderLock(folder / "run"));
}

TEST_CASE("only a folder can be locked", "[files]") {
  const TempFolder folder;
  CHECK_THROWS_WITH(FolderLock(folder / "absent"), Contains("absent: cannot open: No such file"));
  CHECK_THROWS_WITH(FolderLock(folder.write("file", "x")), Contains("Not a directory"));
}

}  // namespace
}  // namespace regroup
