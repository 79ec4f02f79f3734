import SwiftUI

@main
struct EdgesinkDemoApp: App {
    @State private var model = ChatModel()
    @Environment(\.scenePhase) private var phase

    var body: some Scene {
        WindowGroup {
            ChatView(model: model)
                .task { await model.start() }
                .onReceive(NotificationCenter.default.publisher(for: UIApplication.didReceiveMemoryWarningNotification))
            { _ in
                model.memoryIsShort()
            }
        }
        .onChange(of: phase) { _, phase in
            if phase == .background { saveInTime() }
        }
        .onChange(of: model.isBusy) { _, isBusy in
            UIApplication.shared.isIdleTimerDisabled = isBusy
        }
    }

    /// Asks the system for the seconds that writing the stream takes.
    private func saveInTime() {
        let application = UIApplication.shared
        let task = application.beginBackgroundTask()
        Task {
            await model.goesToBackground()
            application.endBackgroundTask(task)
        }
    }
}
